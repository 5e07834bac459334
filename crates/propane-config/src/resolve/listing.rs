//! Every value with its origin: settings, and the options of the command line.

use std::path::Path;

use crate::embedded::holds_secret;
use crate::inputs::Inputs;
use crate::options::{self, Options};
use crate::origin::Origin;
use crate::secrets::is_secret_key;
use crate::settings::{Reload, Setting};
use crate::stack::Stack;
use crate::value::Value;

use super::{Override, ResolvedSetting};

pub(super) fn table_setting(row: &Setting, stack: &Stack<'_>) -> ResolvedSetting {
    let mut candidates = stack.candidates(row.key).map(|(_, leaf)| leaf);
    let winner = candidates.next();
    let value = winner.map(|leaf| leaf.value.clone());
    let overrides: Vec<_> =
        candidates.map(|leaf| Override { value: leaf.value.clone(), origin: leaf.origin.clone() }).collect();
    let holds_one = |value: &Value| matches!(value, Value::Text(text) if holds_secret(text));
    let secret = is_secret_key(row.key) || value.iter().chain(overrides.iter().map(|lost| &lost.value)).any(holds_one);
    ResolvedSetting {
        key: row.key.to_owned(),
        value,
        kind: row.kind.name(),
        origin: winner.map_or(Origin::Builtin, |leaf| leaf.origin.clone()),
        overrides,
        secret,
        reload: row.reload,
        app: false,
    }
}

pub(super) fn option_settings(options: &Options, inputs: &Inputs, framework: Option<&Path>) -> Vec<ResolvedSetting> {
    let path = |path: &Path| Some(Value::Text(path.display().to_string()));
    let switch = |key, given: &options::Given<bool>| option_setting(key, Some(Value::Bool(given.value)), &given.origin);
    let around = Origin::Derived { rule: "the directory around this program".to_owned(), inputs: Vec::new() };
    let framework_origin = match (&options.framework_root, framework) {
        (Some(given), _) => given.origin.clone(),
        (None, Some(_)) => around,
        (None, None) => Origin::Builtin,
    };
    let log = options.lifecycle_log.as_ref();
    let mut settings = vec![
        option_setting(
            "environment",
            Some(Value::Text(options.environment.value.clone())),
            &options.environment.origin,
        ),
        option_setting("appRoot", path(&options.app_root.path), &options.app_root.origin),
        option_setting("frameworkRoot", framework.and_then(path), &framework_origin),
        option_setting("pidFile", path(&options.pid_file.path), &options.pid_file.origin),
        option_setting(
            "lifecycleLog",
            log.map_or_else(|| options::option("lifecycleLog").default_value(), |log| path(&log.path)),
            &log.map_or(Origin::Builtin, |log| log.origin.clone()),
        ),
        switch("noRespawn", &options.no_respawn),
        switch("once", &options.once),
        switch("printRoutes", &options.print_routes),
    ];
    settings.extend(worker_args(inputs));
    settings
}

fn option_setting(key: &str, value: Option<Value>, origin: &Origin) -> ResolvedSetting {
    let row = options::option(key);
    let default = row.default_value().filter(|_| origin.is_explicit());
    ResolvedSetting {
        key: key.to_owned(),
        value,
        kind: row.kind.name(),
        origin: origin.clone(),
        overrides: default.map(|value| Override { value, origin: Origin::Builtin }).into_iter().collect(),
        secret: false,
        reload: row.reload,
        app: false,
    }
}

/// The words after `--`, where there are any.
fn worker_args(inputs: &Inputs) -> Option<ResolvedSetting> {
    let words: Vec<_> = inputs.args.worker_args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let origin = Origin::Arg { flag: "--".to_owned(), index: inputs.args.separator };
    (!words.is_empty()).then(|| ResolvedSetting {
        key: "workerArgs".to_owned(),
        kind: "list",
        secret: words.iter().any(|word| holds_secret(word)),
        value: Some(Value::List(words)),
        origin,
        overrides: Vec::new(),
        reload: Reload::Restart,
        app: false,
    })
}
