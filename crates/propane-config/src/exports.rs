//! What leaves a resolution: the workers' variables.

use crate::origin::Origin;
use crate::resolve::Resolution;
use crate::settings::{Export, SETTINGS};

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
