//! What leaves a resolution: the workers' variables.

use std::ffi::OsString;
use std::path::Path;

use crate::options::RunOptions;
use crate::origin::Origin;
use crate::resolve::Resolution;
use crate::settings::{Export, SETTINGS, row_of};

/// The settings that every worker gets in its environment. Those whose default is the worker's own matter are left out
/// unless a layer sets them.
pub fn worker_exports(resolution: &Resolution) -> Vec<(String, String)> {
    let exported = SETTINGS.iter().zip(&resolution.settings).filter(|(row, setting)| match row.export {
        Export::Never => false,
        Export::Always => true,
        Export::WhenSet => setting.origin != Origin::Builtin,
    });
    exported
        .filter_map(|(row, setting)| Some((row.variable?.to_owned(), setting.value.as_ref()?.to_variable())))
        .collect()
}

/// Everything of the configuration that workers find in their environment.
pub fn all_exports(resolution: &Resolution) -> Vec<(String, OsString)> {
    let settings = worker_exports(resolution).into_iter().map(|(name, value)| (name, value.into()));
    let roots = root_exports(&resolution.run).into_iter().map(|(name, root)| (name.to_owned(), root.into()));
    settings.chain(roots).collect()
}

/// The directories that every worker finds in its environment. Paths need not be text.
pub fn root_exports(run: &RunOptions) -> Vec<(&'static str, &Path)> {
    let roots = [("appRoot", Some(&run.physical_app_root)), ("frameworkRoot", run.framework_root.as_ref())];
    roots.into_iter().filter_map(|(key, root)| Some((row_of(key)?.variable?, root?.as_path()))).collect()
}
