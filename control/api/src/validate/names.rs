//! Forms of names, labels and ports.

pub(super) const DNS_LABEL_HINT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
    '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
pub(super) const DNS_LABEL_1035_HINT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
    start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used \
    for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
pub(super) const DNS_SUBDOMAIN_HINT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for \
    validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
pub(super) const QUALIFIED_NAME_HINT: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
pub(super) const LABEL_VALUE_HINT: &str = "a valid label must be an empty string or consist of alphanumeric characters, \
    '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
    regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
pub(super) const PORT_NAME_HINT: &str = "must contain at most 15 characters, only lower case alphanumeric characters and \
    '-', at least one letter, and no '-' at either end or twice in a row";

/// A lowercase RFC 1123 label: at most 63 of `[a-z0-9-]`, alphanumeric at both ends.
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_label_text(text)
}

/// A lowercase RFC 1035 label: like an RFC 1123 label that starts with a letter.
pub fn is_dns_label_1035(text: &str) -> bool {
    is_dns_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// A lowercase RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label_text)
}

/// The key of a label or annotation: an optional DNS prefix and a name, as in `app.kubernetes.io/name`.
pub fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_word(name),
        None => is_word(text),
    }
}

/// The value of a label: empty or at most 63 of `[A-Za-z0-9._-]`, alphanumeric at both ends.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

/// An IANA service name: at most 15 of `[a-z0-9-]`, at least one letter, no hyphens at the ends or in a row.
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_label_text(text)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.contains("--")
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_grammar() {
        assert!(is_dns_label("web-1") && is_dns_label("1"));
        assert!(!is_dns_label("Web") && !is_dns_label("-a") && !is_dns_label("") && !is_dns_label("a.b"));
        assert!(!is_dns_label(&"a".repeat(64)));
        assert!(is_dns_label_1035("a1") && !is_dns_label_1035("1a"));
        assert!(is_dns_subdomain("a.b-c.d") && !is_dns_subdomain("a..b") && !is_dns_subdomain("a/b"));
        assert!(is_qualified_name("app.kubernetes.io/name") && is_qualified_name("App_1"));
        assert!(!is_qualified_name("/a") && !is_qualified_name("a/") && !is_qualified_name("a/b/c"));
        assert!(
            is_label_value("") && is_label_value("v1.0_x") && !is_label_value("-x") && !is_label_value("a b")
        );
        assert!(is_port_name("http") && !is_port_name("80") && !is_port_name("a--b"));
        assert!(!is_port_name("sixteen-letters-"));
    }
}
