//! Signatures: Standard Webhooks 1.0 (`webhook-signature`) and the body-only kind GitHub made common
//! (`X-Webhook-Signature: sha256=…`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::webhook::{MAX_SECRET_CHARS, MIN_SECRET_CHARS};

/// How a generated secret, and the standard spelling of any, begins.
pub const PREFIX: &str = "whsec_";
/// How far a receiver lets the timestamp be off, in seconds: the standard's recommendation.
pub const TOLERANCE_SECS: i64 = 300;

/// A signing secret. Prints nothing.
#[derive(Clone)]
pub struct SigningSecret {
    text: String,
    key: Vec<u8>,
    /// Has taken in the key: what comes before every message is computed once.
    keyed: Hmac<Sha256>,
}

/// Why a text cannot be a secret, in words that continue "secret …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    #[error("must be at least 16 characters")]
    TooShort,
    #[error("must be at most 512 characters")]
    TooLong,
    #[error("must be base64 after whsec_")]
    NotBase64,
    #[error("must not contain control characters")]
    ControlCharacters,
}

impl SigningSecret {
    /// A text a user brought: base64 after `whsec_`, otherwise its own bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        match text.chars().count() {
            0..MIN_SECRET_CHARS => return Err(InvalidSecret::TooShort),
            MIN_SECRET_CHARS..=MAX_SECRET_CHARS => {}
            _ => return Err(InvalidSecret::TooLong),
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidSecret::ControlCharacters);
        }
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => {
                let key = STANDARD.decode(encoded).map_err(|_| InvalidSecret::NotBase64)?;
                if key.is_empty() {
                    return Err(InvalidSecret::TooShort);
                }
                key
            }
            None => text.as_bytes().to_vec(),
        };
        Ok(Self::new(text.to_owned(), key))
    }

    /// A new one of 32 random bytes.
    pub fn generate(bytes: [u8; 32]) -> Self {
        Self::new(format!("{PREFIX}{}", STANDARD.encode(bytes)), bytes.to_vec())
    }

    fn new(text: String, key: Vec<u8>) -> Self {
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes a key of any length");
        Self { text, key, keyed }
    }

    /// As the user gave it, for storing it sealed.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The standard spelling of the same key, which every Standard Webhooks library understands.
    pub fn expose_standard(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.key))
    }

    /// `v1,…` over id, timestamp and body.
    pub fn sign_standard(&self, id: &str, timestamp_secs: i64, body: &[u8]) -> String {
        let mac = self.mac(&[id.as_bytes(), b".", timestamp_secs.to_string().as_bytes(), b".", body]);
        format!("v1,{}", STANDARD.encode(mac))
    }

    /// `sha256=…` over the body alone.
    pub fn sign_body(&self, body: &[u8]) -> String {
        format!("sha256={}", hex::encode(self.mac(&[body])))
    }

    fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.keyed.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    }
}

impl PartialEq for SigningSecret {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SigningSecret {}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The value of `webhook-signature`: one entry a secret, the newest first.
pub fn standard_header<'a>(
    secrets: impl IntoIterator<Item = &'a SigningSecret>,
    id: &str,
    timestamp_secs: i64,
    body: &[u8],
) -> String {
    let entries: Vec<_> = secrets.into_iter().map(|secret| secret.sign_standard(id, timestamp_secs, body)).collect();
    entries.join(" ")
}

/// Why a delivery is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("it carries no signature")]
    Unsigned,
    #[error("its timestamp is not a number")]
    NoTimestamp,
    #[error("its timestamp is more than five minutes off")]
    Stale,
    #[error("the signature does not match: another secret, or the body was changed")]
    Mismatch,
}

/// What a receiver checks: any `v1` entry of the header matches, and the timestamp is fresh.
pub fn verify_standard(
    secret: &SigningSecret,
    id: &str,
    timestamp: &str,
    header: &str,
    body: &[u8],
    now_secs: i64,
) -> Result<(), Unverified> {
    let timestamp: i64 = timestamp.parse().map_err(|_| Unverified::NoTimestamp)?;
    if now_secs.abs_diff(timestamp) > TOLERANCE_SECS.unsigned_abs() {
        return Err(Unverified::Stale);
    }
    let expected = secret.sign_standard(id, timestamp, body);
    let matches = header.split(' ').any(|entry| entry.as_bytes().ct_eq(expected.as_bytes()).into());
    if matches { Ok(()) } else { Err(Unverified::Mismatch) }
}

/// The same for `X-Webhook-Signature`.
pub fn verify_body(secret: &SigningSecret, header: &str, body: &[u8]) -> Result<(), Unverified> {
    let matches: bool = header.as_bytes().ct_eq(secret.sign_body(body).as_bytes()).into();
    if matches { Ok(()) } else { Err(Unverified::Mismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signs_the_standards_own_example() {
        let secret = SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = secret.sign_standard("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// The example of GitHub's documentation on validating deliveries.
    #[test]
    fn signs_githubs_own_example() {
        let secret = SigningSecret::parse("It's a Secret to Everybody").unwrap();
        assert_eq!(
            secret.sign_body(b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn a_secret_is_16_to_512_characters_and_base64_after_its_prefix() {
        assert_eq!(SigningSecret::parse("fifteen chars ."), Err(InvalidSecret::TooShort));
        assert!(SigningSecret::parse("sixteen chars ..").is_ok());
        assert_eq!(SigningSecret::parse(&"x".repeat(513)), Err(InvalidSecret::TooLong));
        assert_eq!(SigningSecret::parse("whsec_not base64 at all"), Err(InvalidSecret::NotBase64));
        assert_eq!(SigningSecret::parse("sixteen chars .\n."), Err(InvalidSecret::ControlCharacters));
    }

    #[test]
    fn the_standard_spelling_is_the_same_key() {
        let own = SigningSecret::parse("sixteen chars ..").unwrap();
        let standard = SigningSecret::parse(&own.expose_standard()).unwrap();
        assert_eq!(own.sign_body(b"x"), standard.sign_body(b"x"));
    }

    #[test]
    fn only_the_right_secret_body_and_time_verify() {
        let secret = SigningSecret::generate([7; 32]);
        let other = SigningSecret::generate([8; 32]);
        let header = standard_header([&other, &secret], "id", 1_000, b"body");
        let verify = |secret, body: &[u8], now| verify_standard(secret, "id", "1000", &header, body, now);
        assert_eq!(verify(&secret, b"body", 1_000), Ok(()));
        assert_eq!(verify(&other, b"body", 1_300), Ok(()));
        assert_eq!(verify(&secret, b"body", 1_301), Err(Unverified::Stale));
        assert_eq!(verify(&secret, b"bodY", 1_000), Err(Unverified::Mismatch));
        assert_eq!(verify(&SigningSecret::generate([9; 32]), b"body", 1_000), Err(Unverified::Mismatch));
        for truncated in ["", "v1,", "v1", &header[..20]] {
            assert_eq!(verify_standard(&secret, "id", "1000", truncated, b"body", 1_000), Err(Unverified::Mismatch));
        }
    }

    #[test]
    fn nothing_is_printed() {
        assert_eq!(format!("{:?}", SigningSecret::generate([1; 32])), "[redacted]");
    }
}
