//! Errors of the library as the exceptions of `tensorpatch.exceptions`.

use pyo3::prelude::*;
use tensorpatch::checkpoint::CheckpointError;
use tensorpatch::formats::FormatsError;
use tensorpatch::store::PolicyError;
use tensorpatch::{ApplyError, Cancelled, DiffError, ErrorKind, StoreError, TensorsError};

/// What an exception is made of.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    /// The kind, or a closer name for those that a program tells apart.
    code: &'static str,
    message: String,
    /// The stable class of the format's specification, and where in the patch.
    class: Option<&'static str>,
    offset: Option<u64>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        Self { kind, code: kind.name(), message: message(error), class: None, offset: None }
    }

    /// A request that cannot be carried out as it is.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::with_message(ErrorKind::Refused, message)
    }

    pub(crate) fn with_message(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, code: kind.name(), message: message.into(), class: None, offset: None }
    }

    fn at(self, error: &ApplyError) -> Self {
        Self { class: error.class().map(|class| class.code()), offset: error.offset(), ..self }
    }

    /// The exception. If even that cannot be made, the error of trying.
    pub(crate) fn exception(self, py: Python<'_>) -> PyErr {
        let arguments = (self.kind.name(), self.code, self.message, self.class, self.offset);
        let made = py
            .import("tensorpatch.exceptions")
            .and_then(|module| module.getattr("_made"))
            .and_then(|make| make.call1(arguments));
        made.map_or_else(|error| error, PyErr::from_value)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        Python::attach(|py| failure.exception(py))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let failure = Self::new(error.kind(), &error);
        match &error {
            StoreError::Apply(error) => failure.at(error),
            StoreError::LostRace { .. } => Self { code: "lost_race", ..failure },
            StoreError::NotAtTip { .. } => Self { code: "not_at_tip", ..failure },
            StoreError::OutcomeUnknown { .. } => Self { code: "outcome_unknown", ..failure },
            _ => failure,
        }
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        Self::new(error.kind(), &error).at(&error)
    }
}

impl From<FormatsError> for Failure {
    fn from(error: FormatsError) -> Self {
        let failure = Self::new(error.kind(), &error);
        match &error {
            FormatsError::Apply(error) => failure.at(error),
            _ => failure,
        }
    }
}

impl From<DiffError> for Failure {
    fn from(error: DiffError) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl From<TensorsError> for Failure {
    fn from(error: TensorsError) -> Self {
        Self::new(error.kind(), &error)
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        StoreError::Policy(error).into()
    }
}

impl From<Cancelled> for Failure {
    fn from(error: Cancelled) -> Self {
        Self::new(ErrorKind::Cancelled, &error)
    }
}

/// The chain of causes in one line, without those that the one before has said already.
fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let (mut last, mut next) = (text.clone(), error.source());
    while let Some(cause) = next {
        let said = cause.to_string();
        if !last.contains(&said) {
            text = format!("{text}: {said}");
            last = said;
        }
        next = cause.source();
    }
    text
}
