//! [`Failure`]: how a command ends that does not end well: one sentence, and a code for scripts.

use std::io;
use std::process::ExitCode;

/// What the exit code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// It was asked wrongly, or configured so.
    Usage = 2,
    /// It worked, and what it looked at is not as it should be.
    Unhealthy = 3,
}

/// Why a command failed. Any error is one, with [`Exit::Failed`].
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub(crate) fn say(exit: Exit, sentence: impl Into<String>) -> Self {
        Self { exit, error: anyhow::Error::msg(sentence.into()) }
    }

    /// The sentence: the error and its causes, each said once (many errors quote their cause themselves).
    pub(crate) fn sentence(&self) -> String {
        let mut text = String::new();
        for cause in self.error.chain() {
            let said = cause.to_string();
            if text.is_empty() {
                text = said;
            } else if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
        }
        text
    }

    /// Says it on standard error. A reader of the output who went away (`| head`) had what it wanted: that is good.
    pub(crate) fn tell(&self, command: &str, json: bool) -> ExitCode {
        let io_error = self.error.downcast_ref::<io::Error>();
        if io_error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        let sentence = self.sentence();
        if json {
            let line = serde_json::json!({ "event": "failed", "error": sentence, "exit": self.exit as u8 });
            anstream::eprintln!("{line}");
        } else {
            anstream::eprintln!("towline {command}: {sentence}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_failure_is_one_sentence_with_its_causes_each_said_once() {
        let cause = io::Error::other("the disk is full");
        let error = Err::<(), _>(cause).context("writing x: the disk is full").context("the load stopped");
        let failure = Failure::from(error.unwrap_err());
        assert_eq!(failure.sentence(), "the load stopped: writing x: the disk is full");
        assert_eq!(Failure::say(Exit::Unhealthy, "ill").exit as u8, 3);
    }
}
