//! Structured names of resources: `xdstp://AUTHORITY/TYPE/ID?KEY=VALUE#DIRECTIVE`.
//!
//! Source: the proposal "xRFC TP1: xDS Transport Next", section "URI based xDS resource names", and Envoy's
//! `xds.core.v3.ResourceLocator`. Two names are one if they differ only in the order of their context parameters, so that
//! [`Display`](fmt::Display) gives the one form in which they are sorted.

use std::{borrow::Cow, collections::BTreeMap, fmt, str::FromStr};

const SCHEME: &str = "xdstp:";

/// A name that says who has the resource, and of what type it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName {
    /// Whose it is; empty where that goes without saying.
    pub authority: String,
    /// The full name of the resource's message, without `type.googleapis.com/`.
    pub type_: String,
    /// What the authority calls it: any text, slashes included. Ends in `*` for all that begin so.
    pub id: String,
    /// What tells resources of one id apart, such as the proxy's zone.
    pub context: BTreeMap<String, String>,
}

/// Why a text is no structured name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It begins otherwise.
    #[error("{0:?} does not begin with xdstp:")]
    Scheme(String),
    /// Type or id is missing.
    #[error("{0:?} has no {1}")]
    Missing(String, &'static str),
    /// A percent sign is not followed by two digits of a byte, or the bytes are no text.
    #[error("{0:?} is not encoded as a URI is")]
    Encoding(String),
    /// A context parameter has no value, or there are two of one name.
    #[error("{0:?} has a context parameter {1:?} without a value, or twice")]
    Context(String, String),
    /// Directives are of locators in the configuration, not of names.
    #[error("{0:?} has directives, which are not supported")]
    Directives(String),
}

// === impl ResourceName ===

impl ResourceName {
    /// Whether a name is meant to be a structured one.
    pub fn is_structured(name: &str) -> bool {
        name.starts_with(SCHEME)
    }

    /// The one form of a name; of names that are no structured ones, that is what they are.
    pub fn canonical(name: &str) -> Cow<'_, str> {
        if !Self::is_structured(name) {
            return name.into();
        }
        name.parse::<Self>().map_or(name.into(), |name| name.to_string().into())
    }

    /// Whether it stands for all whose ids begin as it does, as `…/*` does.
    pub fn is_glob(&self) -> bool {
        self.id == "*" || self.id.ends_with("/*")
    }

    /// Whether it is this name, or stands for it among others.
    pub fn covers(&self, other: &Self) -> bool {
        let same = (&self.authority, &self.type_, &self.context);
        if same != (&other.authority, &other.type_, &other.context) {
            return false;
        }
        match self.id.strip_suffix('*').filter(|_| self.is_glob()) {
            Some(prefix) => other.id.starts_with(prefix),
            None => self.id == other.id,
        }
    }
}

impl FromStr for ResourceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| NameError::Scheme(text.to_owned()))?;
        if rest.contains('#') {
            return Err(NameError::Directives(text.to_owned()));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        // Without an authority there need not be the slashes that end the scheme.
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => ("", rest.strip_prefix('/').unwrap_or(rest)),
        };
        let (type_, id) = path.split_once('/').unwrap_or((path, ""));
        let missing = |what| NameError::Missing(text.to_owned(), what);
        if type_.is_empty() {
            return Err(missing("type"));
        }
        if id.is_empty() {
            return Err(missing("id"));
        }
        let decode = |part: &str| decoded(part).ok_or_else(|| NameError::Encoding(text.to_owned()));
        let mut context = BTreeMap::new();
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let bad = || NameError::Context(text.to_owned(), pair.to_owned());
            let (key, value) = pair.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(bad)?;
            if context.insert(decode(key)?, decode(value)?).is_some() {
                return Err(bad());
            }
        }
        Ok(Self { authority: decode(authority)?, type_: decode(type_)?, id: decode(id)?, context })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authority, type_, id, context } = self;
        write!(f, "{SCHEME}//{}/{}/{}", Encoded(authority, ":"), Encoded(type_, ""), Encoded(id, "/:*"))?;
        for (index, (key, value)) in context.iter().enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{}={}", Encoded(key, "/:*"), Encoded(value, "/:*"))?;
        }
        Ok(())
    }
}

/// A text as it is in a URI, where these marks stand for themselves beside what always does (RFC 3986, section 2.3).
struct Encoded<'a>(&'a str, &'static str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            let plain =
                byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || self.1.as_bytes().contains(&byte);
            if plain { write!(f, "{}", char::from(byte))? } else { write!(f, "%{byte:02X}")? }
        }
        Ok(())
    }
}

fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

    fn name(text: &str) -> ResourceName {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_name_says_whose_of_what_type_and_which() {
        // From TP1's own examples.
        let read =
            name("xdstp://some-authority/envoy.config.route.v3.RouteConfiguration/foo/bar/baz?a=b&c=d");
        assert_eq!((read.authority.as_str(), read.type_.as_str()), ("some-authority", ROUTES));
        assert_eq!(read.id, "foo/bar/baz", "an id may have slashes");
        assert_eq!(read.context, [("a", "b"), ("c", "d")].map(|(a, b)| (a.into(), b.into())).into());
        for none in ["xdstp:///envoy.config.route.v3.RouteConfiguration/x", "xdstp:/a.B/x", "xdstp:a.B/x"] {
            assert_eq!(name(none).authority, "", "{none}");
        }
        assert!(ResourceName::is_structured("xdstp://a/b/c") && !ResourceName::is_structured("plain"));
    }

    #[test]
    fn the_order_of_context_parameters_makes_no_other_name() {
        let (one, other) = (name("xdstp://a/b.C/d?x=1&y=2"), name("xdstp://a/b.C/d?y=2&x=1"));
        assert_eq!(one, other);
        assert_eq!(other.to_string(), "xdstp://a/b.C/d?x=1&y=2");
        assert_eq!(ResourceName::canonical("xdstp://a/b.C/d?y=2&x=1"), other.to_string());
        for other in ["b?y=2&x=1", "xdstp://a"] {
            assert_eq!(ResourceName::canonical(other), other, "what is no such name stays");
        }
        assert_ne!(one, name("xdstp://a/b.C/d?x=1"));
    }

    #[test]
    fn what_is_no_plain_text_is_encoded() {
        let read = name("xdstp://a/b.C/d%2fe%20%C3%A9?k%26=v%3D");
        assert_eq!((read.id.as_str(), read.context["k&"].as_str()), ("d/e é", "v="));
        assert_eq!(read.to_string(), "xdstp://a/b.C/d/e%20%C3%A9?k%26=v%3D");
        assert_eq!(name(&read.to_string()), read);
    }

    #[test]
    fn a_glob_stands_for_all_that_begin_so() {
        let (glob, inside) = (name("xdstp://a/b.C/d/*?x=1"), name("xdstp://a/b.C/d/e?x=1"));
        assert!(glob.is_glob() && glob.covers(&inside) && inside.covers(&inside) && !inside.covers(&glob));
        for other in
            ["xdstp://a/b.C/other?x=1", "xdstp://a/b.C/d/e", "xdstp://z/b.C/d/e?x=1", "xdstp://a/b.D/d/e?x=1"]
        {
            assert!(!glob.covers(&name(other)), "{other}");
        }
        assert!(!name("xdstp://a/b.C/d*").is_glob(), "only a whole part of the path");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("http://a/b.C/d", "begin"),
            ("xdstp://a", "no type"),
            ("xdstp://a/", "no type"),
            ("xdstp://a/b.C", "no id"),
            ("xdstp://a/b.C/", "no id"),
            ("xdstp://a/b.C/d?x", "parameter \"x\""),
            ("xdstp://a/b.C/d?=1", "parameter \"=1\""),
            ("xdstp://a/b.C/d?x=1&x=2", "twice"),
            ("xdstp://a/b.C/d%2", "encoded"),
            ("xdstp://a/b.C/d%zz", "encoded"),
            ("xdstp://a/b.C/%ff", "encoded"),
            ("xdstp://a/b.C/d#alt=xdstp://x/y/z", "directives"),
        ] {
            let error = text.parse::<ResourceName>().expect_err(text).to_string();
            assert!(error.contains(reason) && error.contains(text), "{error}");
        }
    }
}
