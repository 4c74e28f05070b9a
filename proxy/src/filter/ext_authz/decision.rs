//! What a service decides, and what is made of it.

use std::sync::Arc;

use crate::{
    http::{
        exchange::{Reason, Reply},
        h1::parse::is_authority,
        head::Head,
    },
    route::mutate::{Addition, Append, Mutation},
};

/// What becomes of a request.
pub(super) enum Decision {
    Allowed(Changes),
    Denied(Answer),
    /// There is no decision; the service may say what the client is told.
    Failed(Option<Answer>),
}

/// What the service wants changed in a request that may pass.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// In place of fields of the same name.
    pub(super) set: Vec<Field>,
    /// Beside fields of the same name.
    pub(super) add: Vec<Field>,
    /// To the end of the field of that name; without one, nowhere.
    pub(super) append: Vec<Field>,
    pub(super) remove: Vec<Vec<u8>>,
    pub(super) set_parameters: Vec<Field>,
    pub(super) remove_parameters: Vec<Vec<u8>>,
    /// In the response.
    pub(super) response: Vec<Addition>,
}

/// What the client is told instead.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// `None` is as configured.
    pub(super) status: Option<u32>,
    /// In place of our own fields of the same names.
    pub(super) fields: Vec<Field>,
    pub(super) body: Vec<u8>,
}

/// Name and value, as the service said them.
pub(super) type Field = (Vec<u8>, Vec<u8>);

/// The service wants what no message can be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

// === impl Changes ===

impl Changes {
    /// Changes the request, if all is valid; what is to be done to the response.
    pub(super) fn apply(self, head: &mut Head) -> Result<Vec<Addition>, Invalid> {
        let fields = self.set.iter().chain(&self.add).chain(&self.append);
        for (name, value) in fields {
            check(name, value)?;
        }
        for addition in &self.response {
            check(&addition.name, addition.value.known())?;
        }
        for (name, value) in &self.set_parameters {
            if !name.iter().chain(value).copied().all(may_be_in_query) {
                return Err(Invalid);
            }
        }
        for (name, value) in &self.set {
            set(head, name, value);
        }
        for (name, value) in self.add.iter().filter(|(name, _)| !is_ours(name)) {
            head.append(name, value);
        }
        for (name, value) in self.append.iter().filter(|(name, _)| !is_ours(name)) {
            if head.get(name).is_some() {
                head.append_to_list(name, value);
            }
        }
        for name in self.remove.iter().filter(|name| !is_ours(name)) {
            head.remove(name);
        }
        if !self.set_parameters.is_empty() || !self.remove_parameters.is_empty() {
            self.change_query(head);
        }
        Ok(self.response.into_iter().filter(|addition| !is_ours(&addition.name)).collect())
    }

    fn change_query(&self, head: &mut Head) {
        let target = head.target();
        let (path, query) = target.split_at(memchr::memchr(b'?', target).unwrap_or(target.len()));
        let gone = |parameter: &&[u8]| {
            let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
            let set = self.set_parameters.iter().any(|(other, _)| other == name);
            set || self.remove_parameters.iter().any(|other| other == name)
        };
        let mut parameters: Vec<Vec<u8>> = query
            .get(1..)
            .unwrap_or_default()
            .split(|byte| *byte == b'&')
            .filter(|parameter| !parameter.is_empty() && !gone(parameter))
            .map(<[u8]>::to_vec)
            .collect();
        for (name, value) in &self.set_parameters {
            if !self.remove_parameters.contains(name) {
                parameters.push([name.as_slice(), b"=", value].concat());
            }
        }
        let mut target = path.to_vec();
        if !parameters.is_empty() {
            target.push(b'?');
            target.extend_from_slice(&parameters.join(&b'&'));
        }
        let target = head.intern(&target);
        head.set_target(target);
    }
}

fn set(head: &mut Head, name: &[u8], value: &[u8]) {
    match name {
        b":path" => {
            let target = head.intern(value);
            head.set_target(target);
        }
        b":authority" | b"host" => {
            let authority = head.intern(value);
            head.set_authority(authority);
        }
        name if is_ours(name) => {}
        name => head.set(name, value),
    }
}

/// Whether a change can be made at all. Whoever answers us is trusted to decide, not to write to the wire.
fn check(name: &[u8], value: &[u8]) -> Result<(), Invalid> {
    let good = match name {
        b":path" => value.starts_with(b"/") && value.iter().copied().all(may_be_in_path),
        b":authority" | b"host" => is_authority(value),
        _ if name.starts_with(b":") => false,
        _ => ::http::HeaderName::from_bytes(name).is_ok() && ::http::HeaderValue::from_bytes(value).is_ok(),
    };
    if good { Ok(()) } else { Err(Invalid) }
}

/// Whether a field is about this hop or says how long the message is, which nobody but us can know.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b":")
        || matches!(
            name,
            b"host"
                | b"connection"
                | b"keep-alive"
                | b"proxy-connection"
                | b"transfer-encoding"
                | b"content-length"
                | b"te"
                | b"upgrade"
                | b"http2-settings"
        )
}

fn may_be_in_path(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && byte != b'#'
}

fn may_be_in_query(byte: u8) -> bool {
    may_be_in_path(byte) && byte != b'&' && byte.is_ascii()
}

// === impl Answer ===

impl Answer {
    /// The answer to the client, of which `longest` bytes are passed on.
    pub(super) fn reply(
        self,
        reason: Reason,
        status: u16,
        longest: Option<usize>,
    ) -> Result<Box<Reply>, Invalid> {
        let status = match self.status {
            None => status,
            Some(status) => {
                u16::try_from(status).ok().filter(|status| (200..600).contains(status)).ok_or(Invalid)?
            }
        };
        let (mut remove, mut add) = (Vec::new(), Vec::new());
        for (name, value) in self.fields {
            if is_ours(&name) {
                continue;
            }
            check(&name, &value)?;
            if !remove.contains(&name) {
                remove.push(name.clone());
            }
            add.push(Addition::literal(name, value, Append::Always));
        }
        let mut reply = Box::new(Reply::new(status, reason, ""));
        let mut body = self.body;
        body.truncate(longest.unwrap_or(usize::MAX));
        // These have none.
        if !matches!(status, 204 | 205 | 304) {
            reply.body = body.into();
        }
        reply.changes = Some(Arc::new(Mutation::new(remove, add)));
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let mut head = Head::default();
        let target = head.intern(b"/a?b=1&c=2&b=3");
        head.set_target(target);
        head.append(b"x-a", b"orig");
        head
    }

    fn field(name: &str, value: &str) -> Field {
        (name.into(), value.into())
    }

    #[test]
    fn fields_and_parameters_are_changed_together_and_what_is_ours_is_not() {
        let mut head = head();
        let changes = Changes {
            set: vec![field(":path", "/n?b=1&c=2&d"), field("host", "else"), field("content-length", "5")],
            add: vec![field("x-a", "more"), field("transfer-encoding", "chunked")],
            append: vec![field("x-a", "last"), field("x-none", "1")],
            remove: vec![b"host".to_vec(), b"x-gone".to_vec()],
            set_parameters: vec![field("b", "9"), field("n", "x")],
            remove_parameters: vec![b"c".to_vec()],
            response: Vec::new(),
        };
        assert_eq!(changes.apply(&mut head), Ok(Vec::new()));
        assert_eq!((head.target(), head.authority()), (&b"/n?d&b=9&n=x"[..], &b"else"[..]));
        let fields: Vec<_> = head.fields().map(|(_, name, value)| (name.to_vec(), value.to_vec())).collect();
        assert_eq!(fields, [field("x-a", "orig,more,last")]);
    }

    #[test]
    fn what_no_message_can_be_changes_nothing() {
        let set = |name: &str, value: &str| Changes { set: vec![field(name, value)], ..Changes::default() };
        let query = Changes { set_parameters: vec![field("b", "x y")], ..Changes::default() };
        let broken = [
            set("x-a", "a\r\nb: c"),
            set("x a", "b"),
            set(":path", "/a b"),
            set(":path", "a"),
            set(":authority", "a/b"),
            set(":method", "PUT"),
            query,
        ];
        for changes in broken {
            let mut head = head();
            let text = format!("{changes:?}");
            assert_eq!(changes.apply(&mut head), Err(Invalid), "{text}");
            assert_eq!((head.target(), head.get(b"x-a")), (&b"/a?b=1&c=2&b=3"[..], Some(&b"orig"[..])));
        }
    }

    #[test]
    fn a_denial_has_the_fields_and_as_much_of_the_body_as_is_allowed() {
        let answer = || Answer {
            status: Some(401),
            fields: vec![field("x-d", "1"), field("x-d", "2"), field("connection", "close")],
            body: b"go away".to_vec(),
        };
        let reply = answer().reply(Reason::ExtAuthzDenied, 403, Some(2)).expect("an answer");
        assert_eq!((reply.status, &*reply.body), (401, &b"go"[..]));
        let changes = reply.changes.expect("changes");
        assert_eq!((changes.remove.len(), changes.add.len()), (1, 2));
        let none = Answer { status: Some(204), ..answer() }.reply(Reason::ExtAuthzDenied, 403, None);
        assert_eq!(&*none.expect("an answer").body, b"");
        let configured = Answer { status: None, ..answer() }.reply(Reason::ExtAuthzError, 503, None);
        assert_eq!(configured.expect("an answer").status, 503);
        for status in [0, 100, 600, 70_000] {
            let answer = Answer { status: Some(status), ..answer() };
            assert!(answer.reply(Reason::ExtAuthzDenied, 403, None).is_err(), "{status}");
        }
    }
}
