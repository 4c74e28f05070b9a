//! Ways in which the same bytes can arrive.

use weft_proxy::fuzzing::{Passed, Reading};

/// Sizes of pieces: all at once, byte by byte, and one way of cutting that depends on the input.
pub fn ways(input: &[u8]) -> [Box<dyn Iterator<Item = usize>>; 3] {
    let seed = input.iter().fold(1_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let odd = std::iter::successors(Some(seed), |state| {
        Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    });
    [
        Box::new(std::iter::empty()),
        Box::new(std::iter::repeat(1)),
        Box::new(odd.map(|state| (state >> 28) as usize + 1)),
    ]
}

/// Reads in every way and insists on one answer.
pub fn same<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    mut read: impl FnMut(&mut dyn Iterator<Item = usize>) -> T,
) -> T {
    let [mut whole, mut single, mut odd] = ways(input);
    let answer = read(&mut *whole);
    assert_eq!(answer, read(&mut *single), "byte by byte is not as all at once");
    assert_eq!(answer, read(&mut *odd), "in pieces is not as all at once");
    answer
}

/// [`same`] for messages: where the chunks of what is forwarded end may depend on how the bytes came. `check` sees
/// what was forwarded each time.
pub fn same_message(
    input: &[u8],
    mut read: impl FnMut(&mut dyn Iterator<Item = usize>) -> Reading<Passed>,
    check: impl Fn(&Passed),
) -> Reading<Passed> {
    same(input, |sizes| match read(sizes) {
        Reading::Complete(passed) => {
            check(&passed);
            Reading::Complete(Passed { forwarded: Vec::new(), ..passed })
        }
        other => other,
    })
}
