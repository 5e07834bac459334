//! Salted hashes: whether a secret is still the same, without keeping it.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::value::Value;

/// What makes the hashes of one document useless for any other: the same secret looks different in each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Salt(String);

/// The hash of a value under a salt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Salt {
    /// From random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(hex(&random))
    }

    /// HMAC-SHA-256 of the value's JSON form, which no two values share.
    pub(crate) fn fingerprint(&self, value: &Value) -> Fingerprint {
        // Texts, numbers and lists of texts always have a JSON form, and HMAC takes keys of any length.
        let bytes = serde_json::to_vec(value).expect("a value can be serialised");
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_bytes()).expect("a key of any length");
        mac.update(&bytes);
        Fingerprint(hex(&mac.finalize().into_bytes()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `hmac` makes of the same bytes.
    const EXPECTED: &str = "34e424678c073d12160c7d7027bb489323f39f71799c11c4fc2114a12c559f6c";

    #[test]
    fn a_fingerprint_is_that_of_its_salt_and_its_value_alone() {
        let (one, two) = (Salt::new([1; 32]), Salt::new([2; 32]));
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(one.fingerprint(&text("a")), one.fingerprint(&text("a")));
        assert_ne!(one.fingerprint(&text("a")), two.fingerprint(&text("a")));
        assert_ne!(one.fingerprint(&text("1")), one.fingerprint(&Value::Int(1)));
        assert_ne!(one.fingerprint(&text("a,b")), one.fingerprint(&Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(one.fingerprint(&text("hunter2")).0, EXPECTED);
    }
}
