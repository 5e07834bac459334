//! What leaves a resolution: the workers' variables, and what differs from an earlier one.

use serde::Serialize;

use crate::origin::Origin;
use crate::resolve::Resolution;
use crate::settings::{Export, Reload, ResolvedConfig, SETTINGS};
use crate::value::Value;

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

/// A setting that two configurations disagree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its key.
    pub key: &'static str,
    /// The value before.
    pub old: Option<Value>,
    /// The value now.
    pub new: Option<Value>,
    /// What a reload does about it.
    pub reload: Reload,
}

/// Every setting that differs, in the table's order.
pub fn changes(old: &ResolvedConfig, new: &ResolvedConfig) -> Vec<Change> {
    let (old, new) = (values(old), values(new));
    let rows = SETTINGS.iter().zip(old.into_iter().zip(new));
    rows.filter(|(_, (old, new))| old != new)
        .map(|(row, (old, new))| Change { key: row.key, old, new, reload: row.reload })
        .collect()
}

/// The value of every row. Goes through the serialised form, whose names are the rows' keys.
fn values(config: &ResolvedConfig) -> Vec<Option<Value>> {
    // A struct of numbers, switches, texts and lists always has a serialised form.
    let tree = figment::value::Value::serialize(config).expect("the configuration can be serialised");
    SETTINGS.iter().map(|row| tree.find_ref(row.key).and_then(to_value)).collect()
}

fn to_value(value: &figment::value::Value) -> Option<Value> {
    use figment::value::Value as Figment;
    match value {
        Figment::Bool(_, on) => Some(Value::Bool(*on)),
        // Every number of the configuration is unsigned.
        Figment::Num(_, number) => number.to_u128().and_then(|wide| i64::try_from(wide).ok()).map(Value::Int),
        Figment::String(_, text) => Some(Value::Text(text.clone())),
        Figment::Array(_, items) => {
            items.iter().map(|item| Some(item.as_str()?.to_owned())).collect::<Option<_>>().map(Value::List)
        }
        Figment::Char(..) | Figment::Empty(..) | Figment::Dict(..) => None,
    }
}
