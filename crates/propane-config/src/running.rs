//! What a running manager says of its configuration: enough to compare it with the files as the manager would read them,
//! and no secret.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::diff::{Difference, Entry, Proof};
use crate::embedded::{holds_secret, mask_within};
use crate::fingerprint::{Fingerprint, Salt};
use crate::inputs::{Args, Flag, Inputs};
use crate::origin::Origin;
use crate::reload::{Reloaded, reload};
use crate::resolve::{Resolution, ResolvedSetting};
use crate::secrets::{MASK, is_secret_key};
use crate::settings::{OPTIONS, Reload, SETTINGS, Setting, setting};
use crate::value::Value;
use crate::worker::Strategy;

const FRAMEWORK_ROOT: &str = "frameworkRoot";

/// The configuration of a generation, and what the manager was started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The generation that runs.
    pub generation: u32,
    /// How its workers were to get their connections.
    pub strategy: Strategy,
    /// The salt of every hash in it.
    salt: Salt,
    inputs: SavedInputs,
    settings: Vec<RunningSetting>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RunningSetting {
    key: String,
    /// As it may be shown.
    value: Option<Value>,
    #[serde(rename = "type")]
    kind: String,
    origin: Origin,
    reload: Reload,
    /// Of the whole value, where not all of it may be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<Fingerprint>,
}

/// What [`Inputs`] are made from again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedInputs {
    flags: Vec<SavedFlag>,
    worker_args: Vec<Word>,
    separator: usize,
    variables: BTreeMap<String, Word>,
    cwd: Word,
    exe: Option<Word>,
    hostname: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedFlag {
    name: String,
    value: Word,
    index: usize,
}

/// A word of the command line, or a variable's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    /// Text.
    Text(String),
    /// What is no text.
    Bytes(Vec<u8>),
    /// Text whose secret part is masked.
    Masked(String),
}

/// The files as the manager of a [`Running`] would read them now.
#[derive(Debug, Clone)]
pub struct OnDisk {
    /// What they say.
    pub entries: Vec<Entry>,
    /// What the manager would make of them at a reload.
    pub reloaded: Reloaded,
}

impl Running {
    /// What a manager runs since it has resolved `inputs` to `resolution`.
    pub fn new(generation: u32, inputs: &Inputs, resolution: &Resolution, salt: Salt) -> Self {
        let settings = entries(resolution).into_iter().map(|entry| RunningSetting::new(entry, &salt)).collect();
        let inputs = SavedInputs::new(inputs);
        Self { generation, strategy: resolution.strategy, salt, inputs, settings }
    }

    /// What it says, to be compared.
    pub fn entries(&self) -> Vec<Entry> {
        self.settings.iter().map(|setting| setting.entry(&self.salt)).collect()
    }

    /// What the manager was started with. Secrets in it are masked.
    pub fn inputs(&self) -> Inputs {
        self.inputs.restore()
    }

    /// Reads the files again as the manager would, with `inputs` made from [`Running::inputs`].
    pub fn on_disk(&self, inputs: &Inputs) -> OnDisk {
        let reloaded = reload(inputs, &self.restart_settings());
        let mut entries = entries(reloaded.found());
        let masked = self.inputs.masked_origins(inputs);
        for entry in &mut entries {
            if masked.contains(&entry.origin.to_string()) {
                entry.proof = Proof::Inherited;
            }
        }
        OnDisk { entries, reloaded }
    }

    /// The settings that a reload keeps.
    fn restart_settings(&self) -> Vec<ResolvedSetting> {
        let rows = self.settings.iter().filter(|saved| saved.reload == Reload::Restart && saved.hash.is_none());
        rows.filter_map(|saved| {
            let row = setting(&saved.key)?;
            Some(ResolvedSetting {
                key: saved.key.clone(),
                value: saved.value.clone(),
                kind: row.kind.name(),
                origin: saved.origin.clone(),
                overrides: Vec::new(),
                secret: false,
                reload: saved.reload,
                app: false,
            })
        })
        .collect()
    }
}

impl OnDisk {
    /// What a reload would do with a key on which the files and the manager disagree. What follows from a value that is
    /// kept is kept as well.
    pub fn effect(&self, difference: &Difference<'_>) -> Reload {
        let value = |resolution: &Resolution| resolution.setting(difference.key()).map(|setting| setting.value.clone());
        let is_kept = value(&self.reloaded.resolution) != value(self.reloaded.found());
        if is_kept { Reload::Restart } else { difference.reload() }
    }
}

/// What a resolution says, as a manager acts on it.
fn entries(resolution: &Resolution) -> Vec<Entry> {
    let mut entries = Entry::all_of(resolution);
    entries.push(Entry::physical_app_root(resolution));
    for entry in entries.iter_mut().filter(|entry| entry.key == FRAMEWORK_ROOT) {
        // A manager's own options stay as they are; if this one differs, a link leads elsewhere, and that is followed.
        entry.reload = Reload::Generation;
    }
    entries
}

impl RunningSetting {
    fn new(entry: Entry, salt: &Salt) -> Self {
        let hash = match &entry.proof {
            Proof::Secret(value) => Some(salt.fingerprint(value)),
            _ => None,
        };
        Self { key: entry.key, value: entry.shown, kind: entry.kind, origin: entry.origin, reload: entry.reload, hash }
    }

    fn entry(&self, salt: &Salt) -> Entry {
        Entry {
            key: self.key.clone(),
            shown: self.value.clone(),
            kind: self.kind.clone(),
            origin: self.origin.clone(),
            reload: self.reload,
            proof: self.hash.clone().map_or(Proof::Shown, |hash| Proof::Hash(salt.clone(), hash)),
        }
    }
}

impl SavedInputs {
    fn new(inputs: &Inputs) -> Self {
        let rows = || SETTINGS.iter().chain(OPTIONS);
        let flag = |flag: &Flag| {
            let row = rows().find(|row| row.flag == Some(flag.name.as_str()));
            SavedFlag { name: flag.name.clone(), value: Word::of(&flag.value, row), index: flag.index }
        };
        let names = rows().flat_map(|row| {
            row.variable.map(ToOwned::to_owned).into_iter().chain(row.legacy_variable()).map(move |name| (name, row))
        });
        let variables = names.filter_map(|(name, row)| {
            let value = Word::of(inputs.variable(&name)?, Some(row));
            Some((name, value))
        });
        Self {
            flags: inputs.args.flags.iter().map(flag).collect(),
            worker_args: inputs.args.worker_args.iter().map(|word| Word::of(word, None)).collect(),
            separator: inputs.args.separator,
            variables: variables.collect(),
            cwd: Word::plain(inputs.cwd.as_os_str()),
            exe: inputs.exe.as_ref().map(|exe| Word::plain(exe.as_os_str())),
            hostname: inputs.hostname.clone(),
        }
    }

    fn restore(&self) -> Inputs {
        let flags = self.flags.iter().map(|flag| Flag {
            name: flag.name.clone(),
            value: flag.value.restore(),
            index: flag.index,
        });
        Inputs {
            args: Args {
                flags: flags.collect(),
                worker_args: self.worker_args.iter().map(Word::restore).collect(),
                separator: self.separator,
            },
            env: self.variables.iter().map(|(name, value)| (name.into(), value.restore())).collect(),
            cwd: PathBuf::from(self.cwd.restore()),
            exe: self.exe.as_ref().map(|exe| PathBuf::from(exe.restore())),
            hostname: self.hostname.clone(),
        }
    }

    /// The variables and flags whose values are masked, as far as they are still the manager's own in `inputs`.
    fn masked_origins(&self, inputs: &Inputs) -> HashSet<String> {
        let own = |flag: &&SavedFlag| {
            inputs.args.flag(&flag.name).is_some_and(|now| now.index == flag.index && now.value == flag.value.restore())
        };
        let flags = self.flags.iter().filter(|flag| flag.value.is_masked()).filter(own);
        let flags = flags.map(|flag| Origin::arg(&flag.name, flag.index));
        let variables = self.variables.iter().filter(|(_, value)| value.is_masked());
        let variables = variables.map(|(name, _)| Origin::Env { variable: name.clone() });
        let words =
            self.worker_args.iter().any(Word::is_masked) && inputs.args.worker_args == self.restore().args.worker_args;
        let words = words.then(|| Origin::Arg { flag: "--".to_owned(), index: self.separator });
        flags.chain(variables).chain(words).map(|origin| origin.to_string()).collect()
    }
}

impl Word {
    /// A word that a row reads, with what is secret in it masked.
    fn of(word: &OsStr, row: Option<&Setting>) -> Self {
        let text = word.to_string_lossy();
        if row.is_some_and(|row| is_secret_key(row.key)) {
            Self::Masked(MASK.to_owned())
        } else if holds_secret(&text) {
            Self::Masked(mask_within(&text))
        } else {
            Self::plain(word)
        }
    }

    fn plain(word: &OsStr) -> Self {
        word.to_str().map_or_else(|| Self::Bytes(word.as_bytes().to_vec()), |text| Self::Text(text.to_owned()))
    }

    fn restore(&self) -> OsString {
        match self {
            Self::Text(text) | Self::Masked(text) => text.into(),
            Self::Bytes(bytes) => OsString::from_vec(bytes.clone()),
        }
    }

    fn is_masked(&self) -> bool {
        matches!(self, Self::Masked(_))
    }
}
