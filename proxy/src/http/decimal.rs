//! Numbers as text, on the hot path: no allocation, no formatting machinery.

use std::ops::Deref;

/// Digits of the largest `u64`.
const DIGITS: usize = 20;

/// The decimal digits of a number.
pub(crate) struct Decimal {
    digits: [u8; DIGITS],
    start: usize,
}

// === impl Decimal ===

impl Decimal {
    pub(crate) fn new(mut value: u64) -> Self {
        let mut digits = [b'0'; DIGITS];
        let mut start = DIGITS;
        loop {
            start -= 1;
            digits[start] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                return Self { digits, start };
            }
        }
    }
}

impl Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_display_prints() {
        for value in [0, 7, 10, 404, 1_000_000, u64::MAX] {
            assert_eq!(&*Decimal::new(value), value.to_string().as_bytes());
        }
    }
}
