//! Passwords: argon2id with OWASP's minimum of memory and time, a few at once so that signing in cannot eat the machine.
//! Those of people who come from Plausible are bcrypt's, and only ever compared.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version};
use tokio::sync::Semaphore;

/// Hashes computed at once; each takes 19 MiB.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// A hash of nothing anybody could type: checking it takes as long as checking a real one.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// The same for bcrypt, at the cost Plausible's library has.
const NOBODY_BCRYPT: &str = "$2b$12$.....................................................";

fn hasher() -> Argon2<'static> {
    let params = Params::new(19_456, 2, 1, None).expect("these parameters are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// The text to store for a password. `salt` must be random and new.
///
/// # Errors
/// The hash could not be computed, which only a machine without memory would do.
pub async fn hash(password: String, salt: [u8; 16]) -> anyhow::Result<String> {
    let _permit = AT_ONCE.acquire().await?;
    tokio::task::spawn_blocking(move || {
        let hash = hasher().hash_password_with_salt(password.as_bytes(), &salt);
        hash.map(|hash| hash.to_string()).map_err(|error| anyhow::anyhow!("the password cannot be hashed: {error}"))
    })
    .await?
}

/// Whether it is the password. Without a hash to compare with, the answer is no and takes as long.
///
/// # Errors
/// The check could not be run.
pub async fn verify(password: String, hash: Option<String>) -> anyhow::Result<bool> {
    let _permit = AT_ONCE.acquire().await?;
    let known = hash.is_some();
    let text = hash.unwrap_or_else(|| NOBODY.to_owned());
    let matches = tokio::task::spawn_blocking(move || {
        PasswordHash::new(&text).is_ok_and(|hash| hasher().verify_password(password.as_bytes(), &hash).is_ok())
    })
    .await?;
    Ok(known && matches)
}

/// The same for a hash of bcrypt's, which looks at the first 72 bytes only.
///
/// # Errors
/// The check could not be run.
pub async fn verify_bcrypt(password: String, hash: Option<String>) -> anyhow::Result<bool> {
    let _permit = AT_ONCE.acquire().await?;
    let known = hash.is_some();
    let text = hash.unwrap_or_else(|| NOBODY_BCRYPT.to_owned());
    let matches = tokio::task::spawn_blocking(move || bcrypt::verify(password, &text).unwrap_or(false)).await?;
    Ok(known && matches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_password_matches() {
        let stored = hash("correct horse battery".into(), [7; 16]).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify("correct horse battery".into(), Some(stored.clone())).await.unwrap());
        assert!(!verify("correct horse".into(), Some(stored)).await.unwrap());
        assert!(!verify("anything".into(), None).await.unwrap());
        assert!(PasswordHash::new(NOBODY).is_ok());
    }

    #[tokio::test]
    async fn bcrypt_is_compared_too() {
        // A vector of crypt_blowfish's own tests.
        let stored = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".to_owned();
        assert!(verify_bcrypt("U*U".into(), Some(stored.clone())).await.unwrap());
        assert!(!verify_bcrypt("U*V".into(), Some(stored)).await.unwrap());
        for broken in ["", "not a hash"] {
            assert!(!verify_bcrypt("U*U".into(), Some(broken.into())).await.unwrap());
        }
        assert!(!verify_bcrypt("anything".into(), None).await.unwrap());
        assert!(NOBODY_BCRYPT.parse::<bcrypt::HashParts>().is_ok());
    }
}
