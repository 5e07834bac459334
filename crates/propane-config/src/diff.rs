//! What two configurations disagree on, whatever they come from: files, defaults, a saved document, a running manager.

use std::collections::{HashMap, HashSet};

use crate::fingerprint::{Fingerprint, Salt};
use crate::origin::Origin;
use crate::resolve::{Resolution, ResolvedSetting, shown};
use crate::saved::SavedSetting;
use crate::secrets::MASK;
use crate::settings::{OPTIONS, Reload, SETTINGS};
use crate::value::Value;

/// A setting, an option or a key of the app's own, as one side of a comparison knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its value as it may be shown; `None` where there is none.
    pub shown: Option<Value>,
    /// Name of its type.
    pub kind: String,
    /// Where the value came from.
    pub origin: Origin,
    /// What a reload does with a change.
    pub reload: Reload,
    /// What is known of the value besides what is shown.
    pub proof: Proof,
}

/// What is known of a value besides what may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// All of it is shown.
    Shown,
    /// The value.
    Secret(Value),
    /// Its hash.
    Hash(Salt, Fingerprint),
    /// That it is what the running manager was started with, in the variable or flag that it comes from.
    Inherited,
    /// Nothing.
    Masked,
}

/// A key on which two sides disagree, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference<'e> {
    /// The one side; `None` where it lacks the key.
    pub a: Option<&'e Entry>,
    /// The other side.
    pub b: Option<&'e Entry>,
    /// Whether it is certain.
    pub certain: bool,
}

impl Difference<'_> {
    /// Its key.
    pub fn key(&self) -> &str {
        self.any().map_or("", |entry| &entry.key)
    }

    /// What a reload does with it.
    pub fn reload(&self) -> Reload {
        self.any().map_or(Reload::Restart, |entry| entry.reload)
    }

    /// Whether a side holds back a secret.
    pub fn is_secret(&self) -> bool {
        [self.a, self.b].into_iter().flatten().any(|entry| entry.proof != Proof::Shown)
    }

    fn any(&self) -> Option<&Entry> {
        self.b.or(self.a)
    }
}

impl Entry {
    /// The key under which the app root stands without its symlinks: where a release link leads.
    pub const PHYSICAL_APP_ROOT: &str = "appRoot, links resolved";

    fn new(setting: &ResolvedSetting) -> Self {
        let shown = setting.value.as_ref().map(|value| setting.shown(value));
        let proof = match &setting.value {
            Some(value) if shown.as_ref() != Some(value) => Proof::Secret(value.clone()),
            _ => Proof::Shown,
        };
        Self {
            key: setting.key.clone(),
            shown,
            kind: setting.kind.to_owned(),
            origin: setting.origin.clone(),
            reload: setting.reload,
            proof,
        }
    }

    /// A resolution's, in its order.
    pub fn all_of(resolution: &Resolution) -> Vec<Self> {
        resolution.settings.iter().map(Self::new).collect()
    }

    /// Where a release link leads. Of interest where time has passed between the two sides.
    pub fn physical_app_root(resolution: &Resolution) -> Self {
        let root = resolution.run.physical_app_root.display().to_string();
        Self {
            key: Self::PHYSICAL_APP_ROOT.to_owned(),
            shown: Some(Value::Text(root)),
            kind: "string".to_owned(),
            origin: resolution.setting("appRoot").map_or(Origin::Builtin, |setting| setting.origin.clone()),
            reload: Reload::Generation,
            proof: Proof::Shown,
        }
    }

    /// A saved document's, whose secrets may be masked or not.
    pub fn of_saved(saved: &SavedSetting) -> Self {
        let is_masked = match &saved.value {
            Some(Value::Text(text)) => text.contains(MASK),
            Some(Value::List(words)) => words.iter().any(|word| word.contains(MASK)),
            _ => false,
        };
        let shown = saved.value.as_ref().map(|value| shown(&saved.key, value));
        let proof = match &saved.value {
            _ if is_masked => Proof::Masked,
            Some(value) if shown.as_ref() != Some(value) => Proof::Secret(value.clone()),
            _ => Proof::Shown,
        };
        Self {
            key: saved.key.clone(),
            shown,
            kind: saved.kind.clone(),
            origin: saved.origin.clone(),
            reload: saved.reload,
            proof,
        }
    }

    /// The value, where it is known.
    fn value(&self) -> Option<&Value> {
        match &self.proof {
            Proof::Shown => self.shown.as_ref(),
            Proof::Secret(value) => Some(value),
            Proof::Hash(..) | Proof::Inherited | Proof::Masked => None,
        }
    }
}

/// Whether two sides hold the same value; `None` if that cannot be known.
fn agree(a: &Entry, b: &Entry) -> Option<bool> {
    match (&a.proof, &b.proof) {
        (Proof::Inherited, _) | (_, Proof::Inherited) => Some(a.origin == b.origin),
        (Proof::Hash(salt, hash), Proof::Hash(other_salt, other)) if salt == other_salt => Some(hash == other),
        (Proof::Masked, _) | (_, Proof::Masked) | (Proof::Hash(..), Proof::Hash(..)) => {
            (a.shown != b.shown).then_some(false)
        }
        (Proof::Hash(salt, hash), _) => Some(b.value().is_some_and(|value| salt.fingerprint(value) == *hash)),
        (_, Proof::Hash(salt, hash)) => Some(a.value().is_some_and(|value| salt.fingerprint(value) == *hash)),
        _ => Some(a.value() == b.value()),
    }
}

/// Every key on which the sides disagree: those of `a` in its order, then what only `b` has.
pub fn diff<'e>(a: &'e [Entry], b: &'e [Entry]) -> Vec<Difference<'e>> {
    let others: HashMap<&str, &Entry> = b.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    let known: HashSet<&str> = a.iter().map(|entry| entry.key.as_str()).collect();
    let of_a = a.iter().filter_map(|entry| {
        let other = others.get(entry.key.as_str()).copied();
        let agree = other.map_or(Some(false), |other| agree(entry, other));
        (agree != Some(true)).then_some(Difference { a: Some(entry), b: other, certain: agree.is_some() })
    });
    let only_b = b.iter().filter(|entry| !known.contains(entry.key.as_str()));
    of_a.chain(only_b.map(|entry| Difference { a: None, b: Some(entry), certain: true })).collect()
}

/// Whether every setting is there. A saved document may hold a selection, and what it lacks says nothing then.
pub fn is_whole(entries: &[Entry]) -> bool {
    let keys: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
    SETTINGS.iter().chain(OPTIONS).all(|row| keys.contains(row.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(shown: &str, proof: Proof) -> Entry {
        Entry {
            key: "k".into(),
            shown: Some(Value::Text(shown.into())),
            kind: "string".into(),
            origin: Origin::Builtin,
            reload: Reload::Generation,
            proof,
        }
    }

    #[test]
    fn secrets_are_compared_as_far_as_they_are_known() {
        let salt = Salt::new([7; 32]);
        let text = |text: &str| Value::Text(text.to_owned());
        let plain = |shown: &str| entry(shown, Proof::Shown);
        let secret = |value: &str| entry("***", Proof::Secret(text(value)));
        let hash = |value: &str| entry("***", Proof::Hash(salt.clone(), salt.fingerprint(&text(value))));
        let masked = || entry("***", Proof::Masked);
        let another = |value: &str| {
            let salt = Salt::new([8; 32]);
            entry("***", Proof::Hash(salt.clone(), salt.fingerprint(&text(value))))
        };
        let from = |variable: &str, proof: Proof| Entry {
            origin: Origin::Env { variable: variable.into() },
            ..entry("***", proof)
        };
        let inherited = |variable: &str| from(variable, Proof::Inherited);
        let Proof::Hash(salt_of_run, hash_of_run) = hash("x").proof else { unreachable!("it was made as one") };
        let running = |variable: &str| from(variable, Proof::Hash(salt_of_run.clone(), hash_of_run.clone()));
        for (a, b, expected) in [
            (plain("x"), plain("x"), Some(true)),
            (plain("x"), plain("y"), Some(false)),
            (secret("x"), secret("x"), Some(true)),
            (secret("x"), secret("y"), Some(false)),
            (secret("x"), hash("x"), Some(true)),
            (secret("y"), hash("x"), Some(false)),
            (plain("x"), hash("x"), Some(true)),
            (hash("x"), hash("x"), Some(true)),
            (hash("x"), hash("y"), Some(false)),
            (hash("x"), another("x"), None),
            (masked(), secret("x"), None),
            (masked(), hash("x"), None),
            (masked(), masked(), None),
            (masked(), plain("x"), Some(false)),
            (inherited("A"), running("A"), Some(true)),
            (inherited("A"), running("B"), Some(false)),
        ] {
            assert_eq!(agree(&a, &b), expected, "{a:?} {b:?}");
            assert_eq!(agree(&b, &a), expected, "{b:?} {a:?}");
        }
    }

    #[test]
    fn keys_of_one_side_only_are_differences() {
        let named = |key: &str| Entry { key: key.into(), ..entry("x", Proof::Shown) };
        let (a, b) = ([named("1"), named("2")], [named("3"), named("1")]);
        let found: Vec<_> =
            diff(&a, &b).iter().map(|found| (found.key().to_owned(), found.a.is_some(), found.b.is_some())).collect();
        assert_eq!(found, [("2".to_owned(), true, false), ("3".to_owned(), false, true)]);
    }
}
