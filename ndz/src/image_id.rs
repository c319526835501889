//! The image id of versions 4 and 5: 16 bytes, written as 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Name of an image, the same in all of its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageId(pub [u8; 16]);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ImageId {
    type Err = Error;

    /// # Errors
    /// [`Error::ImageIdSyntax`] if it is not 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = hex_bytes(text.as_bytes()).ok_or(Error::ImageIdSyntax)?;
        bytes.try_into().map(Self).map_err(|_| Error::ImageIdSyntax)
    }
}

/// The bytes that an even number of hexadecimal digits stands for.
pub(crate) fn hex_bytes(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let digit = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    let bytes = pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?));
    if rest.is_empty() {
        bytes.collect()
    } else {
        None
    }
}
