//! Static bearer tokens, in the file format of kube-apiserver's `--token-auth-file` with one more column.
//!
//! `token,user,uid,"group,group",expires`; uid, groups and expires (RFC 3339) may be left out. The file is read again when it
//! changes, so that a token can be withdrawn without a restart.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::Rng as _;

use super::identity::{Identity, MASTERS};
use crate::pki::{self, PkiError};

/// What members of the group may do is the same as for `system:masters`, but unlike that it can be given by token, and so
/// can be withdrawn.
pub(crate) const ADMINISTRATORS: &str = "weft:administrators";

/// What a token says about its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenStatus {
    Valid(Identity),
    Expired(Timestamp),
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    read: Mutex<Read>,
}

/// The file as it was at `modified`.
#[derive(Debug, Default)]
struct Read {
    modified: Option<SystemTime>,
    tokens: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    identity: Identity,
    expires: Option<Timestamp>,
}

impl Tokens {
    /// The tokens in `path`. If there is no such file, it is made, with one token for an administrator.
    pub(crate) fn open(path: &Path) -> Result<Self, PkiError> {
        if !path.exists() {
            let token = URL_SAFE_NO_PAD.encode(rand::rng().random::<[u8; 32]>());
            pki::write(path, &format!("{token},admin,admin,{ADMINISTRATORS}\n"), 0o600)?;
        }
        Ok(Self { path: path.to_owned(), read: Mutex::default() })
    }

    pub(crate) fn look_up(&self, token: &str, now: Timestamp) -> TokenStatus {
        let mut read = self.read.lock();
        let modified = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_none() || modified != read.modified {
            let text = fs::read_to_string(&self.path).unwrap_or_else(|error| {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the tokens, accepting none");
                String::new()
            });
            *read = Read { modified, tokens: parse(&text) };
        }
        match read.tokens.get(token) {
            None => TokenStatus::Unknown,
            Some(Entry { expires: Some(expires), .. }) if *expires <= now => TokenStatus::Expired(*expires),
            Some(entry) => TokenStatus::Valid(entry.identity.clone()),
        }
    }
}

fn parse(text: &str) -> HashMap<String, Entry> {
    let mut tokens = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok((token, entry)) => drop(tokens.insert(token, entry)),
            Err(problem) => tracing::warn!(line = number + 1, problem, "skipping a token"),
        }
    }
    tokens
}

fn parse_line(line: &str) -> Result<(String, Entry), &'static str> {
    let mut columns = columns(line).into_iter();
    let token = columns.next().filter(|token| !token.is_empty()).ok_or("the token is missing")?;
    let user = columns.next().filter(|user| !user.is_empty()).ok_or("the user is missing")?;
    let uid = columns.next().unwrap_or_default();
    let groups = columns.next().unwrap_or_default();
    let groups: Vec<_> = groups.split(',').map(str::trim).filter(|group| !group.is_empty()).collect();
    if groups.contains(&MASTERS) {
        return Err("system:masters can only be had by client certificate");
    }
    let expires = match columns.next().filter(|expires| !expires.is_empty()) {
        Some(expires) => Some(expires.parse().map_err(|_| "the expiry is not an RFC 3339 time")?),
        None => None,
    };
    let identity = Identity { uid, ..Identity::known(user, groups) };
    Ok((token, Entry { identity, expires }))
}

/// The columns of a line of comma-separated values; a quoted column may contain commas.
fn columns(line: &str) -> Vec<String> {
    let mut columns = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => columns.push(String::new()),
            other => columns.last_mut().expect("starts with one column").push(other),
        }
    }
    columns.iter().map(|column| column.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_expire_and_may_not_make_masters() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.csv");
        let text = "a,alice,1,\"dev,ops\"\nb,bob,2,,2020-01-01T00:00:00Z\nc,carol,3,system:masters\nbroken\n";
        fs::write(&path, text).unwrap();
        let tokens = Tokens::open(&path).unwrap();
        let now = Timestamp::now();
        let TokenStatus::Valid(alice) = tokens.look_up("a", now) else { panic!("alice is known") };
        assert_eq!((alice.user.as_str(), alice.uid.as_str()), ("alice", "1"));
        assert!(alice.is_in("dev") && alice.is_in("ops") && alice.is_in("system:authenticated"));
        assert!(matches!(tokens.look_up("b", now), TokenStatus::Expired(_)));
        assert_eq!(tokens.look_up("c", now), TokenStatus::Unknown);
        assert_eq!(tokens.look_up("", now), TokenStatus::Unknown);
    }

    #[test]
    fn a_first_start_makes_an_administrator() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.csv");
        let tokens = Tokens::open(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let TokenStatus::Valid(admin) = tokens.look_up(text.split(',').next().unwrap(), Timestamp::now())
        else {
            panic!("the administrator is known")
        };
        assert!(admin.is_in(ADMINISTRATORS));
    }
}
