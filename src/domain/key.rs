//! API keys: `phk_`, forty random characters, and six that tell a typo before anybody asks a database.

use std::fmt;

use sha2::{Digest, Sha256};

const PREFIX: &str = "phk_";
const SECRET_CHARS: usize = 40;
const CHECK_CHARS: usize = 6;
/// Shown in lists, so that people recognise a key: its prefix and eight characters.
const SHOWN_CHARS: usize = 12;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key as its owner has it. Prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(String);

/// The text is no key: nobody needs to look it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an API key")]
pub struct NotAKey;

impl KeyText {
    /// A new key out of 64 random bytes. Bytes that would make some characters likelier than others are passed over.
    pub fn generate(random: [u8; 64]) -> Self {
        let mut secret: String = random
            .iter()
            .filter(|byte| **byte < 248)
            .map(|byte| char::from(ALPHABET[usize::from(byte % 62)]))
            .take(SECRET_CHARS)
            .collect();
        // Fewer than forty usable bytes of 64 come up less than once in the age of the universe; hash on then.
        while secret.len() < SECRET_CHARS {
            secret.push_str(&check(&secret));
            secret.truncate(SECRET_CHARS);
        }
        let check = check(&secret);
        Self(format!("{PREFIX}{secret}{check}"))
    }

    pub fn parse(text: &str) -> Result<Self, NotAKey> {
        let rest = text.strip_prefix(PREFIX).ok_or(NotAKey)?;
        if rest.len() != SECRET_CHARS + CHECK_CHARS || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(NotAKey);
        }
        let (secret, given) = rest.split_at(SECRET_CHARS);
        if check(secret) == given { Ok(Self(text.to_owned())) } else { Err(NotAKey) }
    }

    /// What is stored. The key has more than 200 random bits, so a plain hash is enough.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    pub fn shown(&self) -> &str {
        &self.0[..SHOWN_CHARS]
    }

    /// The key itself, for the one moment it is shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.shown())
    }
}

fn check(secret: &str) -> String {
    let hash = Sha256::digest(secret.as_bytes());
    hash.iter().take(CHECK_CHARS).map(|byte| char::from(ALPHABET[usize::from(byte % 62)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_and_a_typo_does_not() {
        let key = KeyText::generate(std::array::from_fn(|index| u8::try_from(index * 3).unwrap()));
        assert_eq!(key.expose().len(), 50);
        assert_eq!(KeyText::parse(key.expose()), Ok(key.clone()));
        let mut typo = key.expose().to_owned();
        typo.replace_range(10..11, if &typo[10..11] == "a" { "b" } else { "a" });
        for text in [typo.as_str(), "", "phk_", "sk_live", &key.expose()[..49], &format!("{}x", key.expose())] {
            assert_eq!(KeyText::parse(text), Err(NotAKey), "{text}");
        }
        assert!(!format!("{key:?}").contains(&key.expose()[20..]));
    }

    #[test]
    fn poor_randomness_still_makes_a_whole_key() {
        assert_eq!(KeyText::generate([255; 64]).expose().len(), 50);
    }
}
