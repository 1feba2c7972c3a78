//! Encryption of what must not lie readable in the database: signing secrets, custom header values, and addresses with
//! more than a host.
//!
//! A sealed value is `version, key id length, key id, nonce, ciphertext`. The associated data binds it to its account,
//! row and column, so that a value moved to another row does not open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::ids::AccountId;

const VERSION: u8 = 1;
pub const NONCE_BYTES: usize = 24;
const KEY_ID_BYTES: usize = 8;

/// The keys that open what is sealed; the first one seals. Prints nothing.
#[derive(Clone)]
pub struct Keyring(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

/// The text is not a list of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 32 bytes in base64, or several of them separated by commas")]
pub struct InvalidKey;

/// The value cannot be read with the keys at hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotOpen {
    #[error("it was sealed with key {0}, which is not among the master keys")]
    UnknownKey(String),
    #[error("it is damaged or belongs to another row")]
    Damaged,
}

/// Column of the answers to requests with an `Idempotency-Key`. They have no row of their own: the account is enough.
pub const ANSWERS: &str = "idempotency";

/// Where a sealed value lives.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub account_id: AccountId,
    pub row: Uuid,
    pub column: &'static str,
}

impl Place {
    fn bytes(&self) -> Vec<u8> {
        format!("pulsehook|{}|{}|{}", self.account_id, self.row, self.column).into_bytes()
    }
}

impl Keyring {
    /// Reads `base64[,base64…]`; the first key seals, all of them open.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let keys = text
            .split(',')
            .map(|part| {
                let bytes = STANDARD.decode(part.trim()).map_err(|_| InvalidKey)?;
                let bytes: [u8; 32] = bytes.try_into().map_err(|_| InvalidKey)?;
                Ok(Key { id: key_id(&bytes), cipher: XChaCha20Poly1305::new(&bytes.into()) })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self(keys))
    }

    /// Names of the keys, the newest first.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    /// Name of the key that seals.
    pub fn newest(&self) -> &str {
        &self.0[0].id
    }

    /// What was sealed for `place`, sealed with the newest key; `None` when it is already. `nonce` must be random and new.
    pub fn renew(&self, place: &Place, nonce: [u8; NONCE_BYTES], sealed: &[u8]) -> Result<Option<Vec<u8>>, CannotOpen> {
        if split(sealed).is_some_and(|(id, _, _)| id == self.newest()) {
            return Ok(None);
        }
        Ok(Some(self.seal(place, nonce, &self.open(place, sealed)?)))
    }

    /// Encrypts `plain` for `place`. `nonce` must be random and new.
    pub fn seal(&self, place: &Place, nonce: [u8; NONCE_BYTES], plain: &[u8]) -> Vec<u8> {
        let key = &self.0[0];
        let payload = Payload { msg: plain, aad: &place.bytes() };
        let ciphertext =
            key.cipher.encrypt(&XNonce::from(nonce), payload).expect("XChaCha20-Poly1305 takes any length we have");
        let mut sealed = Vec::with_capacity(2 + key.id.len() + NONCE_BYTES + ciphertext.len());
        sealed.push(VERSION);
        sealed.push(u8::try_from(key.id.len()).expect("key ids are 8 characters"));
        sealed.extend_from_slice(key.id.as_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }

    /// Decrypts what [`Keyring::seal`] made for the same place.
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Vec<u8>, CannotOpen> {
        let (id, nonce, ciphertext) = split(sealed).ok_or(CannotOpen::Damaged)?;
        let key = self
            .0
            .iter()
            .find(|key| key.id == id)
            .ok_or_else(|| CannotOpen::UnknownKey(id.escape_debug().to_string()))?;
        key.cipher
            .decrypt(&XNonce::from(nonce), Payload { msg: ciphertext, aad: &place.bytes() })
            .map_err(|_| CannotOpen::Damaged)
    }
}

/// Name of the key that a value was sealed with; `None` when it is no sealed value.
pub fn key_of(sealed: &[u8]) -> Option<&str> {
    split(sealed).map(|(id, _, _)| id)
}

/// First characters of the key's hash: tells keys apart without telling anything about them.
fn key_id(bytes: &[u8; 32]) -> String {
    hex::encode(Sha256::digest(bytes))[..KEY_ID_BYTES].to_owned()
}

fn split(sealed: &[u8]) -> Option<(&str, [u8; NONCE_BYTES], &[u8])> {
    let (version, rest) = sealed.split_first()?;
    let (id_bytes, rest) = rest.split_first()?;
    if *version != VERSION || rest.len() < usize::from(*id_bytes) + NONCE_BYTES {
        return None;
    }
    let (id, rest) = rest.split_at(usize::from(*id_bytes));
    let (nonce, ciphertext) = rest.split_at(NONCE_BYTES);
    Some((std::str::from_utf8(id).ok()?, nonce.try_into().ok()?, ciphertext))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(bytes: &[u8]) -> Keyring {
        let keys: Vec<_> = bytes.iter().map(|byte| STANDARD.encode([*byte; 32])).collect();
        Keyring::parse(&keys.join(",")).unwrap()
    }

    fn place(account: i64) -> Place {
        Place { account_id: AccountId(account), row: Uuid::from_u128(7), column: "secret" }
    }

    #[test]
    fn a_sealed_value_opens_only_in_its_place() {
        let sealed = ring(&[1]).seal(&place(1), [9; 24], b"hush");
        assert_eq!(ring(&[1]).open(&place(1), &sealed).unwrap(), b"hush");
        assert_eq!((key_of(&sealed), key_of(b"hush")), (Some(ring(&[1]).newest()), None));
        assert_eq!(ring(&[1]).open(&place(2), &sealed), Err(CannotOpen::Damaged));
        assert_eq!(ring(&[1]).open(&place(1), &sealed[..10]), Err(CannotOpen::Damaged));
        assert!(matches!(ring(&[2]).open(&place(1), &sealed), Err(CannotOpen::UnknownKey(_))));
    }

    #[test]
    fn an_older_key_still_opens_after_a_new_one_was_put_first() {
        let sealed = ring(&[1]).seal(&place(1), [9; 24], b"hush");
        assert_eq!(ring(&[2, 1]).open(&place(1), &sealed).unwrap(), b"hush");
    }

    #[test]
    fn what_an_older_key_sealed_is_renewed_once() {
        let (old, both) = (ring(&[1]), ring(&[2, 1]));
        let sealed = old.seal(&place(1), [9; 24], b"hush");
        let renewed = both.renew(&place(1), [8; 24], &sealed).unwrap().unwrap();
        assert_eq!(ring(&[2]).open(&place(1), &renewed).unwrap(), b"hush");
        assert_eq!(both.renew(&place(1), [7; 24], &renewed), Ok(None));
        assert_eq!(both.renew(&place(2), [7; 24], &sealed), Err(CannotOpen::Damaged));
        assert!(matches!(ring(&[2]).renew(&place(1), [7; 24], &sealed), Err(CannotOpen::UnknownKey(_))));
        assert_eq!((both.ids().count(), both.newest()), (2, ring(&[2]).newest()));
    }

    #[test]
    fn nothing_readable_is_printed() {
        let ring = ring(&[1, 2]);
        let ids: Vec<_> = ring.ids().collect();
        assert_eq!(format!("{ring:?}"), format!("{ids:?}"), "the names of the keys and nothing else");
        assert!(!format!("{ring:?}").contains(&STANDARD.encode([1; 32])));
    }

    /// A value without a ciphertext is damaged; that its head is whole is told by the key it names.
    #[test]
    fn a_value_cut_anywhere_does_not_open() {
        let sealed = ring(&[1]).seal(&place(1), [9; 24], b"");
        let head = 2 + KEY_ID_BYTES + NONCE_BYTES;
        assert_eq!(ring(&[1]).open(&place(1), &sealed).unwrap(), b"");
        for end in 0..sealed.len() {
            assert_eq!(ring(&[1]).open(&place(1), &sealed[..end]), Err(CannotOpen::Damaged), "{end}");
            let unknown = matches!(ring(&[2]).open(&place(1), &sealed[..end]), Err(CannotOpen::UnknownKey(_)));
            assert_eq!(unknown, end >= head, "{end}");
        }
    }
}
