//! Reading `tests/corpus/http1`; its README says how the files are written.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// File and name: `framing/length-then-chunked`.
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
    /// Whether the connection is closed after it.
    pub(super) closes: bool,
}

/// Every case of a kind: `requests` or `responses`.
pub(super) fn read(kind: &str) -> anyhow::Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/http1").join(kind);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let class = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for section in text.split("\n= ").skip(1) {
            let (name, lines) = section.split_once('\n').unwrap_or((section, ""));
            let name = format!("{class}/{name}");
            let (bytes, closes) = unescape(&lines.replace('\n', "")).with_context(|| name.clone())?;
            cases.push(Case { name, bytes, closes });
        }
    }
    Ok(cases)
}

/// The bytes that `text` stands for, and whether it says to close.
fn unescape(text: &str) -> anyhow::Result<(Vec<u8>, bool)> {
    let mut bytes = Vec::new();
    let mut closes = false;
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest[at + 1..].chars().next().context("a backslash at the end")?;
        let after = &rest[at + 1 + escape.len_utf8()..];
        rest = after;
        match escape {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            '!' => closes = true,
            'x' => {
                let digits = after.get(..2).context("\\x without two digits")?;
                bytes.push(u8::from_str_radix(digits, 16)?);
                rest = &after[2..];
            }
            '{' => {
                let end = closing_brace(after).context("\\{ without }")?;
                let (count, repeated) = after[..end].split_once('*').context("\\{ without *")?;
                bytes.extend(unescape(repeated)?.0.repeat(count.parse()?));
                rest = &after[end + 1..];
            }
            other => bail!("\\{other} is no escape"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok((bytes, closes))
}

/// Where the brace closes that was opened before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, found) in text.char_indices() {
        match found {
            '{' if text[..at].ends_with('\\') => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

#[test]
fn escapes_are_read_as_the_readme_says() {
    let (bytes, closes) = unescape("a\\r\\n\\x0b\\\\\\{2*b\\{3*c}}}\\!").expect("valid");
    assert_eq!((&bytes[..], closes), (&b"a\r\n\x0b\\bcccbccc}"[..], true));
}
