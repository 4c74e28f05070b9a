//! Finding, among many texts, those that a given text begins with.

use std::collections::BTreeMap;

/// Texts with something for each. Looking up costs a binary search, and a step for each text that begins with a text
/// that is found; the number of texts hardly matters.
#[derive(Debug)]
pub(super) struct Prefixes<T> {
    /// In the order of their texts.
    entries: Vec<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    text: Vec<u8>,
    value: T,
    /// The longest other text that this begins with.
    parent: Option<usize>,
}

impl<T> Prefixes<T> {
    pub(super) fn new(texts: BTreeMap<Vec<u8>, T>) -> Self {
        let mut entries: Vec<Entry<T>> = Vec::with_capacity(texts.len());
        for (text, value) in texts {
            let mut parent = entries.len().checked_sub(1);
            while let Some(index) = parent.filter(|index| !text.starts_with(&entries[*index].text)) {
                parent = entries[index].parent;
            }
            entries.push(Entry { text, value, parent });
        }
        Self { entries }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What there is for each text that `wanted` begins with, the longest first.
    pub(super) fn of<'p>(&'p self, wanted: &'p [u8]) -> impl Iterator<Item = (&'p [u8], &'p T)> {
        // Let P be a text that `wanted` begins with. Whatever stands between the two in the order begins with P as well:
        // so P is the last text that is not after `wanted`, or one of that text's parents.
        let after = self.entries.partition_point(|entry| entry.text.as_slice() <= wanted);
        let parent = |index: &usize| self.entries[*index].parent;
        std::iter::successors(after.checked_sub(1), parent)
            .map(|index| &self.entries[index])
            .filter(|entry| wanted.starts_with(&entry.text))
            .map(|entry| (entry.text.as_slice(), &entry.value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn text() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'/')], 0..8)
    }

    proptest! {
        #[test]
        fn finds_what_a_look_at_each_text_finds(texts in vec(text(), 0..30), wanted in text()) {
            let prefixes = Prefixes::new(texts.iter().map(|text| (text.clone(), ())).collect());
            let mut expected: Vec<_> = texts.iter().filter(|text| wanted.starts_with(text)).collect();
            expected.sort_by_key(|text| std::cmp::Reverse(text.len()));
            expected.dedup();
            let found: Vec<_> = prefixes.of(&wanted).map(|(text, ())| text.to_vec()).collect();
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        }
    }
}
