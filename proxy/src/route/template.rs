//! Path templates: `/users/{id}/files/{rest=**}`, as expressions.
//!
//! Source: Envoy's `envoy.extensions.path.match.uri_template.v3` and `…rewrite.uri_template.v3`.

/// One or more characters of one segment.
const SEGMENT: &str = "[a-zA-Z0-9\\-._~%!$&'()*+,;:@=]+";
/// Any number of characters of any number of segments.
const SEGMENTS: &str = "[a-zA-Z0-9\\-._~%!$&'()*+,;:@=/]*";

/// The expression for a template: a group for each variable, for the whole path. The error says what is wrong.
pub(crate) fn expression(template: &str) -> Result<String, String> {
    let segments = template.strip_prefix('/').ok_or("must begin with /")?;
    let mut expression = String::from("^");
    let mut names = Vec::new();
    let mut rest = segments;
    let mut open = true;
    while open {
        let (segment, after) = split_segment(rest)?;
        expression.push('/');
        match segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            Some(variable) => {
                let (name, pattern) = variable.split_once('=').unwrap_or((variable, "*"));
                if !is_name(name) || names.contains(&name) {
                    return Err(format!("{name:?} is no name of a variable, or one that was used before"));
                }
                names.push(name);
                let parts: Vec<_> = pattern.split('/').map(part).collect::<Result<_, _>>()?;
                if pattern.contains("**") && (after.is_some() || !pattern.ends_with("**")) {
                    return Err("** must come last".to_owned());
                }
                expression.push_str(&format!("(?P<{name}>{})", parts.join("/")));
            }
            None => {
                if segment == "**" && after.is_some() {
                    return Err("** must come last".to_owned());
                }
                expression.push_str(&part(segment)?);
            }
        }
        open = after.is_some();
        rest = after.unwrap_or_default();
    }
    expression.push('$');
    Ok(expression)
}

/// What a rewrite's template makes of the variables of `pattern`, as the replacement for it.
pub(crate) fn substitution(template: &str, pattern: &regex::bytes::Regex) -> Result<String, String> {
    if !template.starts_with('/') {
        return Err("must begin with /".to_owned());
    }
    let mut substitution = String::new();
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("{ without }")?;
        if !pattern.capture_names().flatten().any(|known| known == name) {
            return Err(format!("{name:?} is no variable of the match"));
        }
        substitution.push_str(&literal.replace('$', "$$"));
        substitution.push_str(&format!("${{{name}}}"));
        rest = after;
    }
    substitution.push_str(&rest.replace('$', "$$"));
    Ok(substitution)
}

/// The first segment, and what follows its slash, if one does. A slash within braces ends nothing.
fn split_segment(text: &str) -> Result<(&str, Option<&str>), String> {
    let from = match text.starts_with('{') {
        true => text.find('}').ok_or("{ without }")?,
        false => 0,
    };
    Ok(match text[from..].find('/') {
        Some(at) => (&text[..from + at], Some(&text[from + at + 1..])),
        None => (text, None),
    })
}

fn part(text: &str) -> Result<String, String> {
    match text {
        "*" => Ok(SEGMENT.to_owned()),
        "**" => Ok(SEGMENTS.to_owned()),
        text if text.contains(['*', '{', '}']) => {
            Err(format!("{text:?}: a variable or wildcard must be a whole segment"))
        }
        text => Ok(regex::escape(text)),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.len() <= 16
        && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(template: &str) -> regex::bytes::Regex {
        regex::bytes::Regex::new(&expression(template).expect(template)).expect("an expression")
    }

    #[test]
    fn variables_and_wildcards_stand_for_segments() {
        for (template, path, matches) in [
            ("/a/{x}/b", "/a/1/b", true),
            ("/a/{x}/b", "/a/1/2/b", false),
            ("/a/*", "/a/", false),
            ("/a/**", "/a/b/c", true),
            ("/a/{x=b/*}/c", "/a/b/1/c", true),
            ("/a/{x=b/*}/c", "/a/c/1/c", false),
            ("/a.b", "/axb", false),
            ("/", "/", true),
        ] {
            assert_eq!(compiled(template).is_match(path.as_bytes()), matches, "{template} {path}");
        }
    }

    #[test]
    fn a_rewrite_puts_variables_where_it_names_them() {
        let pattern = compiled("/users/{id}/{rest=**}");
        let substitution = substitution("/$/{rest}/of/{id}", &pattern).expect("valid");
        let new = pattern.replace(b"/users/7/a/b", substitution.as_bytes());
        assert_eq!(new.as_ref(), b"/$/a/b/of/7");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for template in ["a", "/{a", "/{a}/{a}", "/**/a", "/a*b", "/{1}", "/{a=**}/b"] {
            assert!(expression(template).is_err(), "{template}");
        }
        assert!(substitution("/{other}", &compiled("/{one}")).is_err());
    }
}
