//! A thousand routes, for the row that has them.

use std::fmt::Write as _;

/// Lines of a list in YAML, all but the last route of [`COUNT`], which is the one that is for everything: the worst case of
/// whoever looks at one after the other.
pub fn before_the_last(indent: usize) -> String {
    (0..COUNT - 1).fold(String::new(), |mut lines, number| {
        let matches = match number % 10 {
            0..=4 => format!("path: /api/v1/items/{number}"),
            5..=7 => format!("prefix: /service-{number}/"),
            8 => format!("path_separated_prefix: /team-{number}"),
            _ if number % 100 == 99 => format!("safe_regex: {{regex: \"/object-{number}/[0-9]+\"}}"),
            _ => format!(
                "prefix: /tenant/, headers: [{{name: x-tenant-id, string_match: {{exact: tenant-{number}}}}}]"
            ),
        };
        _ = writeln!(lines, "{:indent$}- {{match: {{{matches}}}, route: {{cluster: upstream}}}}", "");
        lines
    })
}

/// How many there are.
pub const COUNT: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_it_says_with_the_last() {
        let lines = before_the_last(4);
        assert_eq!(lines.lines().count(), COUNT - 1);
        assert!(
            lines.lines().all(|line| line.starts_with("    - {match: {") && line.ends_with("}}")),
            "{lines}"
        );
    }
}
