//! The configuration of propane: layers, provenance and the typed [`ResolvedConfig`].
//!
//! [`load`] reads the files that [`Inputs`] point at and resolves; everything behind it is pure. No value is ever
//! defaulted in silence: whatever a layer says that cannot be used is among the [`Resolution`]'s problems.

mod check;
mod choices;
mod derive;
mod diff;
pub mod document;
mod embedded;
mod exports;
mod fingerprint;
mod foreign;
mod inputs;
mod layer;
mod lookup;
pub mod manual;
mod markup;
mod names;
pub mod openstep;
mod options;
mod origin;
mod problem;
pub mod reference;
mod reload;
pub mod report;
mod resolve;
mod running;
pub mod saved;
pub mod schema;
pub mod secrets;
mod settings;
mod source;
mod stack;
mod sweep;
mod tree;
mod value;
mod worker;
mod world;

pub use choices::{DispatchMode, LogFormat, SocketStrategy};
pub use diff::{Difference, Entry, Proof, diff, is_whole};
pub use exports::{all_exports, root_exports, worker_exports};
pub use fingerprint::{Fingerprint, Salt};
pub use inputs::{Args, Flag, Inputs};
pub use layer::LayerKind;
pub use lookup::{NoSuchName, is_under};
pub use names::nearest;
pub use options::RunOptions;
pub use origin::{Input, Origin, Position};
pub use problem::{Code, Place, Problem, Severity};
pub use reload::{Refusal, Reloaded, Waiting, reload};
pub use resolve::{FileState, LayerInfo, Override, Resolution, ResolvedSetting, load, load_defaults};
pub use running::{OnDisk, Running};
pub use settings::{
    Cluster, DefaultValue, Export, GROUPS, OPTIONS, PropaneAccessories, Reload, RequestLimits, ResolvedConfig,
    RuntimeLimits, SETTINGS, Setting, row_of, setting,
};
pub use source::Quote;
pub use sweep::{CheckedFile, Sweep};
pub use tree::tree_to_json;
pub use value::{Kind, Misfit, Shape, Value};
pub use worker::{PrepareStep, Strategy, Worker, WorkerChoice, unix_path};
