//! What can be wrong with an age file, a recipient or an identity.

/// Everything that can go wrong here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not an age file.
    #[error("not an age file: it does not begin with the line age-encryption.org/v1")]
    NotAge,
    /// Longer than any wrapped key.
    #[error("an age file of {size} bytes: wrapped keys have at most {max}")]
    TooLong {
        /// Bytes found.
        size: usize,
        /// Most bytes.
        max: usize,
    },
    /// Something in the file is not as the format demands.
    #[error("the age file is damaged: {what}")]
    Format {
        /// What.
        what: &'static str,
    },
    /// The file is not what was written.
    #[error("the age file was altered: its authentication code is wrong")]
    Altered,
    /// Made for others.
    #[error("wrapped for other recipients ({kinds}): none of the identities opens it")]
    NotForUs {
        /// For what kinds of recipients.
        kinds: String,
    },
    /// Nobody to wrap for.
    #[error("no recipient is named")]
    NoRecipients,
    /// The result does not fit an image.
    #[error(
        "{count} recipients need {size} bytes, an image has room for {max}: name fewer, 27 always fit"
    )]
    TooManyRecipients {
        /// Number of recipients.
        count: usize,
        /// Bytes needed.
        size: usize,
        /// Bytes there are.
        max: usize,
    },
    /// The text is no key file.
    #[error("more than {max} bytes to wrap: this is not a content key")]
    TextTooLong {
        /// Most bytes.
        max: usize,
    },
    /// Not a recipient.
    #[error("not a recipient: {detail}")]
    Recipient {
        /// What is wrong.
        detail: String,
    },
    /// Not an identity.
    #[error("not an identity: {detail}")]
    Identity {
        /// What is wrong.
        detail: String,
    },
    /// The operating system has no random numbers.
    #[error("no random numbers from the operating system: {0}")]
    Random(getrandom::Error),
}
