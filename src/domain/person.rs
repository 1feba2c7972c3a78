//! People: their e-mail addresses and what passwords they may choose.

/// Shortest password, in characters: without a rule about what is in it, length is what makes it hard to guess
/// (NIST SP 800-63B, section 3.1.1.2).
pub const MIN_PASSWORD_CHARS: usize = 12;
/// Longest password, in bytes: hashing is not free.
pub const MAX_PASSWORD_BYTES: usize = 1_024;
/// Longest address there can be (RFC 5321, section 4.5.3.1.3, without its brackets).
const MAX_EMAIL_BYTES: usize = 254;
/// Fewer different characters than this are a pattern, not a password.
const MIN_DIFFERENT: usize = 5;
/// Runs of a keyboard and of counting, which everybody tries first.
const RUNS: [&str; 6] = [
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1q2w3e4r5t6z7u8i9o0p",
];
/// What the passwords that turn up most often in leaks are made of.
const COMMON: [&str; 24] = [
    "password",
    "passwort",
    "motdepasse",
    "contraseña",
    "letmein",
    "welcome",
    "iloveyou",
    "administrator",
    "admin",
    "changeme",
    "sunshine",
    "princess",
    "football",
    "baseball",
    "superman",
    "trustno",
    "dragon",
    "monkey",
    "shadow",
    "master",
    "secret",
    "login",
    "hello",
    "test",
];

/// An address as it is kept: without space around it, in lower case.
///
/// # Errors
/// A sentence about why it is none. Whether anybody reads it nobody can tell from how it looks.
pub fn email(text: &str) -> Result<String, &'static str> {
    let email = text.trim().to_lowercase();
    let looks_right = email.split_once('@').is_some_and(|(name, host)| {
        !name.is_empty() && host.contains('.') && !host.contains('@') && host.split('.').all(|label| !label.is_empty())
    });
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',' | ';' | '"');
    if !looks_right || email.len() > MAX_EMAIL_BYTES || email.contains(odd) {
        return Err("must be an e-mail address");
    }
    Ok(email)
}

/// The name of an account as it is kept.
///
/// # Errors
/// A sentence about why it cannot be one.
pub fn account_name(text: &str) -> Result<String, &'static str> {
    let name = text.trim();
    if !(1..=255).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err("must be 1 to 255 characters");
    }
    Ok(name.to_owned())
}

/// Judges a password that somebody chooses. `known` is what those who guess know too: the e-mail address, the account's name.
///
/// # Errors
/// A sentence about what is wrong with it.
pub fn password(text: &str, known: &[&str]) -> Result<(), String> {
    if text.chars().count() < MIN_PASSWORD_CHARS {
        return Err(format!("must be at least {MIN_PASSWORD_CHARS} characters"));
    }
    if text.len() > MAX_PASSWORD_BYTES {
        return Err(format!("must be at most {MAX_PASSWORD_BYTES} bytes"));
    }
    if is_guessable(&text.to_lowercase(), known) {
        return Err(
            "is one of the first that anybody would try; take a few words that do not belong together".to_owned()
        );
    }
    Ok(())
}

/// Whether little is left of it without what everybody tries first.
fn is_guessable(text: &str, known: &[&str]) -> bool {
    let mut different: Vec<char> = text.chars().collect();
    different.sort_unstable();
    different.dedup();
    if different.len() < MIN_DIFFERENT {
        return true;
    }
    let mut rest = text.to_owned();
    let known = known.iter().flat_map(|text| {
        let text = text.to_lowercase();
        let parts: Vec<_> = text.split(|c: char| !c.is_alphanumeric()).map(str::to_owned).collect();
        // The whole of it first: of an address little is left without it.
        [text].into_iter().chain(parts)
    });
    let common = COMMON.iter().map(|word| (*word).to_owned()).chain(["pulsehook".to_owned()]);
    for word in known.chain(common).filter(|word| word.chars().count() >= 3) {
        rest = rest.replace(word.as_str(), "");
    }
    rest = without_runs(&rest);
    rest.chars().filter(|c| c.is_alphabetic()).count() < MIN_DIFFERENT && rest.chars().count() < MIN_PASSWORD_CHARS - 3
}

/// Without stretches of four characters and more that lie side by side in one of the [`RUNS`], forwards or backwards.
fn without_runs(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let runs: Vec<String> =
        RUNS.iter().flat_map(|run| [(*run).to_owned(), run.chars().rev().collect::<String>()]).collect();
    let mut left = String::new();
    let mut at = 0;
    while at < chars.len() {
        let stretch = |length: usize| chars[at..at + length].iter().collect::<String>();
        let longest =
            (4..=chars.len() - at).take_while(|length| runs.iter().any(|run| run.contains(&stretch(*length))));
        match longest.last() {
            Some(length) => at += length,
            None => {
                left.push(chars[at]);
                at += 1;
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_in_one_form() {
        assert_eq!(email(" Me@Example.COM "), Ok("me@example.com".to_owned()));
        for text in [
            "",
            "me",
            "@example.com",
            "me@example",
            "me@@example.com",
            "me@example..com",
            "a b@example.com",
            "a@b.c\n<x>",
        ] {
            assert!(email(text).is_err(), "{text}");
        }
        assert!(email(&format!("{}@example.com", "a".repeat(250))).is_err());
    }

    #[test]
    fn what_everybody_tries_first_is_refused() {
        let known = ["marieke@bakery.example", "Marieke's bakery"];
        for text in [
            "123456789012",
            "aaaaaaaaaaaa",
            "abababababab",
            "password1234",
            "Passwort2026!",
            "qwertyuiopas",
            "iloveyou2026",
            "marieke2026!!",
            "bakerybakery1",
            "pulsehook2026",
            "adminadmin123",
            "zyxwvutsrqpo",
            "1q2w3e4r5t6z",
            "short",
        ] {
            assert!(password(text, &known).is_err(), "{text}");
        }
        for text in [
            "correct horse battery",
            "Tq7-vm2x-Lr9p",
            "zwölf Äpfel im Garten",
            "4183 0927 5561 2",
            "marieke likes long walks",
        ] {
            assert_eq!(password(text, &known), Ok(()), "{text}");
        }
        assert!(password(&"ab12 ".repeat(300), &[]).is_err());
    }
}
