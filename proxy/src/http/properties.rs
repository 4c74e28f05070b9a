//! What holds for every message, tried with many.

use proptest::{collection::vec, prelude::*};

use crate::{
    fuzzing::{Reading, Slashes, chunked, normal_path, request, response},
    http::{
        body::Trailers,
        h1::{compose, framing::BodyLength},
        head::{Head, Method, Version},
    },
};

/// Name and value.
type Field = (String, Vec<u8>);

/// Names that are nobody's but the application's.
fn name() -> impl Strategy<Value = String> {
    "x-[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,8}"
}

/// Values without blanks at either end, which are not part of a value.
fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => 0x21..=0x7e_u8, 1 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80..=0xff_u8], 0..20)
        .prop_map(|value| value.trim_ascii().to_vec())
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    vec((name(), value()), 0..8)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..200)
}

/// Sizes of the pieces in which the bytes arrive.
fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(1..40_usize, 0..60)
}

fn text(start: &str, fields: &[Field]) -> Vec<u8> {
    let mut text = format!("{start}\r\n").into_bytes();
    for (name, value) in fields {
        text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    text
}

/// `data` in chunks that end where `cuts` say.
fn in_chunks(data: &[u8], cuts: &[usize], trailers: &Trailers) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = data;
    let mut cuts = cuts.iter();
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(cuts.next().map_or(rest.len(), |cut| rest.len().min(*cut)));
        compose::chunk_start(&mut out, chunk.len());
        out.extend_from_slice(chunk);
        compose::chunk_end(&mut out);
        rest = after;
    }
    compose::last_chunk(&mut out, trailers);
    out
}

proptest! {
    #[test]
    fn a_request_is_forwarded_as_what_it_was_and_what_follows_stays(
        path in "/[a-z0-9/.-]{0,12}(\\?[a-z&=]{0,6})?",
        fields in fields(),
        body in body(),
        as_chunks in any::<bool>(),
        cuts in pieces(),
        sizes in pieces(),
    ) {
        let mut input = text(&format!("POST {path} HTTP/1.1\r\nHost: web:80"), &fields);
        if as_chunks {
            input.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
            input.extend_from_slice(&in_chunks(&body, &cuts, &Trailers::new()));
        } else {
            input.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            input.extend_from_slice(&body);
        }
        let length = input.len();
        input.extend_from_slice(b"GET /next HTTP/1.1\r\nHost: web\r\n\r\n");
        let Reading::Complete(passed) = request(&input, &mut sizes.into_iter()) else {
            panic!("valid: {:?}", String::from_utf8_lossy(&input))
        };
        prop_assert_eq!(passed.consumed, length);
        prop_assert_eq!(&passed.body, &body);
        let Reading::Complete(next) = request(&passed.forwarded, &mut std::iter::empty()) else {
            panic!("forwarded: {:?}", String::from_utf8_lossy(&passed.forwarded))
        };
        prop_assert_eq!(next.consumed, passed.forwarded.len());
        prop_assert_eq!(next.body, body);
        prop_assert_eq!(next.target, passed.target);
        let own = |name: &[u8]| name.starts_with(b"x-");
        let expected: Vec<_> = fields.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        let kept: Vec<_> = next.fields.into_iter().filter(|(name, _)| own(name)).collect();
        prop_assert_eq!(kept, expected);
    }

    #[test]
    fn a_response_is_passed_on_as_what_it_was(
        status in prop_oneof![Just(200_u16), Just(404), Just(500), Just(599)],
        fields in fields(),
        body in body(),
        until_close in any::<bool>(),
        sizes in pieces(),
    ) {
        let mut input = text(&format!("HTTP/1.1 {status} Some reason"), &fields);
        if !until_close {
            input.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        input.extend_from_slice(b"\r\n");
        input.extend_from_slice(&body);
        let Reading::Complete(passed) = response(&input, false, &mut sizes.into_iter()) else {
            panic!("valid: {:?}", String::from_utf8_lossy(&input))
        };
        prop_assert_eq!(passed.consumed, input.len());
        let Reading::Complete(next) = response(&passed.forwarded, false, &mut std::iter::empty()) else {
            panic!("passed on: {:?}", String::from_utf8_lossy(&passed.forwarded))
        };
        prop_assert_eq!((next.consumed, next.body), (passed.forwarded.len(), body));
    }

    #[test]
    fn chunks_carry_the_same_data_wherever_they_and_the_reads_are_cut(
        data in body(),
        trailers in fields(),
        cuts in pieces(),
        sizes in pieces(),
        rest in vec(any::<u8>(), 0..20),
    ) {
        let trailers: Trailers =
            trailers.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        let mut input = in_chunks(&data, &cuts, &trailers);
        let length = input.len();
        input.extend_from_slice(&rest);
        let Reading::Complete(read) = chunked(&input, &mut sizes.into_iter()) else { panic!("valid") };
        prop_assert_eq!((read.consumed, read.body, read.trailers), (length, data, trailers));
    }

    #[test]
    fn a_path_has_one_normal_form(
        path in "/([a-c./\\\\%?]|%2[eEfF]|%5[cC]|%41|\\.\\.){0,16}",
        normalize in any::<bool>(),
        merge in any::<bool>(),
        slashes in prop_oneof![Just(Slashes::Keep), Just(Slashes::Reject), Just(Slashes::Unescape)],
    ) {
        if let Some(normal) = normal_path(path.as_bytes(), normalize, merge, slashes) {
            let again = normal_path(&normal, normalize, merge, slashes);
            prop_assert_eq!(again.as_ref(), Some(&normal), "of {:?}", path);
            let end = normal.iter().position(|byte| *byte == b'?').unwrap_or(normal.len());
            let leads_away = normal[..end].split(|byte| *byte == b'/').any(|segment| segment == b"..");
            prop_assert!(!normalize || !leads_away, "{:?}", String::from_utf8_lossy(&normal));
        }
    }

    #[test]
    fn a_head_is_edited_like_a_list_of_fields(
        edits in vec((0..4_u8, "[a-cA-C]|host|content-length|te|upgrade", "[a-cA-C, ]{0,5}"), 0..24),
        nominations in vec("[a-cA-C, ]{0,5}", 0..3),
        strips in any::<bool>(),
    ) {
        let mut head = Head::default();
        head.reset(b"");
        let mut model: Vec<(String, String)> = Vec::new();
        for (edit, name, value) in edits {
            let same = |other: &str| other.eq_ignore_ascii_case(&name);
            match edit {
                0 | 1 => {
                    head.append(name.as_bytes(), value.as_bytes());
                    model.push((name, value));
                }
                2 => {
                    head.set(name.as_bytes(), value.as_bytes());
                    model.retain(|(other, _)| !same(other));
                    model.push((name, value));
                }
                _ => {
                    head.remove(name.as_bytes());
                    model.retain(|(other, _)| !same(other));
                }
            }
        }
        for nomination in nominations {
            head.append(b"Connection", nomination.as_bytes());
            model.push(("Connection".to_owned(), nomination));
        }
        if strips {
            prop_assert!(head.strip_hop_by_hop());
            strip(&mut model);
        }
        let fields: Vec<(String, String)> = head
            .fields()
            .map(|(_, name, value)| {
                (String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned())
            })
            .collect();
        prop_assert_eq!(&fields, &model);
        for (name, _) in &model {
            let first = model.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
            prop_assert_eq!(head.get(name.as_bytes()), first.map(|(_, value)| value.as_bytes()));
        }
    }

    #[test]
    fn an_empty_body_never_becomes_a_chunk(fields in fields()) {
        let mut head = Head::default();
        head.reset(b"");
        head.status = 200;
        for (name, value) in &fields {
            head.append(name.as_bytes(), value);
        }
        let mut out = Vec::new();
        compose::response(&mut out, &head, BodyLength::Chunked, (Version::Http11, Method::Get), false);
        compose::last_chunk(&mut out, &Trailers::new());
        let Reading::Complete(read) = response(&out, false, &mut std::iter::empty()) else { panic!("valid") };
        prop_assert_eq!((read.consumed, read.body.len()), (out.len(), 0));
    }
}

fn strip(model: &mut Vec<(String, String)>) {
    let named: Vec<String> = model
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("connection"))
        .flat_map(|(_, value)| value.split(',').map(|token| token.trim().to_ascii_lowercase()))
        .collect();
    model.retain(|(name, _)| {
        let name = name.to_ascii_lowercase();
        let hop = matches!(&*name, "connection" | "te" | "upgrade");
        let vital = matches!(&*name, "host" | "content-length");
        !hop && (vital || !named.contains(&name))
    });
}
