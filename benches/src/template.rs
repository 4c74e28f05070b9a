//! The configuration files below `peers/`: one file per proxy serves several set-ups.
//!
//! `@NAME@` is replaced by a value. A line that ends in a mark, `#? tls-down !h2-up`, stays only where the set-up has each
//! named feature, and none that is named with an exclamation mark. To the proxies a mark would be a comment.

const MARK: &str = "#?";

/// `text` for a set-up with these features, with its values filled in.
pub fn fill(text: &str, features: &[&str], values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(text.len());
    for line in text.lines().filter_map(|line| kept(line, features)) {
        filled.push_str(line);
        filled.push('\n');
    }
    for (name, value) in values {
        filled = filled.replace(&format!("@{name}@"), value);
    }
    filled
}

/// The line without its mark, if it belongs to the set-up. A comment that explains marks has words in between: it is
/// no mark, since a mark follows something.
fn kept<'a>(line: &'a str, features: &[&str]) -> Option<&'a str> {
    if line.starts_with('#') {
        return Some(line);
    }
    let Some((content, wanted)) = line.split_once(MARK) else { return Some(line) };
    let holds = |word: &str| match word.strip_prefix('!') {
        Some(unwanted) => !features.contains(&unwanted),
        None => features.contains(&word),
    };
    wanted.split_whitespace().all(holds).then(|| content.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_line_stays_only_where_its_features_are() {
        let text = "# marks: (#? NAME)\nplain @PORT@  #? !tls !h2\ntls @PORT@  #? tls\nboth\n";
        let values = [("PORT", "80")];
        assert_eq!(fill(text, &[], &values), "# marks: (#? NAME)\nplain 80\nboth\n");
        assert_eq!(fill(text, &["tls"], &values), "# marks: (#? NAME)\ntls 80\nboth\n");
        assert_eq!(fill(text, &["h2"], &values), "# marks: (#? NAME)\nboth\n");
    }
}
