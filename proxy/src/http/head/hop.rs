//! Fields that are about one hop only (RFC 9110 7.6.1).

use super::{Head, Known, Seen, tokens};

// === impl Head ===

impl Head {
    /// Takes out the fields that are about this hop only: the fixed ones and those that `Connection` nominates. Whether
    /// the nominations are honest: nobody who is will nominate who asks, or whom.
    ///
    /// Must run before the proxy adds fields of its own: what a client nominates may remove what it sent itself, never
    /// what we say about it.
    pub(crate) fn strip_hop_by_hop(&mut self) -> bool {
        if !self.seen.has_hop_by_hop() {
            return true;
        }
        let mut nominated = false;
        for field in &mut self.fields {
            nominated |= field.known == Known::Connection;
            field.removed |= Seen::HOP_BY_HOP.contains(&field.known);
        }
        !nominated || self.strip_nominated()
    }

    fn strip_nominated(&mut self) -> bool {
        let mut honest = true;
        for index in 0..self.fields.len() {
            if self.fields[index].known != Known::Connection {
                continue;
            }
            let value = self.fields[index].value;
            let (start, end) = (value.start as usize, value.end() as usize);
            honest &= !tokens(&self.text[start..end]).any(names_the_asker);
            // Fields are few and `Connection` is short: a scan for each token is cheaper than any table.
            for other in 0..self.fields.len() {
                let field = self.fields[other];
                // Host and the framing decide what the message *is*; nominating them is an attack, not a wish.
                if field.removed || matches!(field.known, Known::Host | Known::ContentLength) {
                    continue;
                }
                let name = self.get_span(field.name);
                if tokens(&self.text[start..end]).any(|token| token.eq_ignore_ascii_case(name)) {
                    self.fields[other].removed = true;
                }
            }
        }
        honest
    }
}

/// Whether a nomination is about the identity of the client or the request: it could only be meant to hide it.
fn names_the_asker(token: &[u8]) -> bool {
    const NAMES: [&[u8]; 4] = [b"host", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];
    token.first() == Some(&b':') || NAMES.iter().any(|name| token.eq_ignore_ascii_case(name))
}
