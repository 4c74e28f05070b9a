//! The table in `benches/README.md`.

use std::{fs, path::Path};

use anyhow::Context as _;

const BEGIN: &str = "<!-- results: written by benches/run -->\n";
const END: &str = "<!-- end of results -->";

/// Puts `table` between the two marks of the file.
pub fn update(file: &Path, table: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let updated =
        replaced(&text, table).with_context(|| format!("{} has no place for the table", file.display()))?;
    fs::write(file, updated).with_context(|| format!("cannot write {}", file.display()))
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_the_one_before() {
        let text = format!("above\n{BEGIN}old\n{END}\nbelow\n");
        let once = replaced(&text, "new").expect("marks");
        assert_eq!(once, format!("above\n{BEGIN}\nnew\n{END}\nbelow\n"));
        assert_eq!(replaced(&once, "new"), Some(once.clone()));
        assert_eq!(replaced("no marks", "new"), None);
    }
}
