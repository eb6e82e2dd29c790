//! What the makers of refused vectors share: the codes of section 12, and the list that they add to.

use tensorpatch_format::ErrorClass;

use crate::Vector;
use crate::state::State;
use crate::vector::States;

pub(crate) const TRUNCATED: &str = ErrorClass::Truncated.code();
pub(crate) const NOT_A_PATCH: &str = ErrorClass::NotAPatch.code();
pub(crate) const VERSION: &str = ErrorClass::UnsupportedVersion.code();
pub(crate) const FEATURE: &str = ErrorClass::UnsupportedFeature.code();
pub(crate) const LIMIT: &str = ErrorClass::Limit.code();
pub(crate) const CHECKSUM: &str = ErrorClass::Checksum.code();
pub(crate) const INVALID: &str = ErrorClass::Invalid.code();
pub(crate) const WRONG_BASE: &str = ErrorClass::WrongBase.code();
pub(crate) const TARGET_MISMATCH: &str = ErrorClass::TargetMismatch.code();

/// The refused vectors of one module, whose ids begin alike.
pub(crate) struct Maker<'a> {
    pub(crate) states: &'a States,
    pub(crate) all: Vec<Vector>,
    prefix: &'static str,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(states: &'a States, prefix: &'static str) -> Self {
        Self { states, all: Vec::new(), prefix }
    }

    /// A file that is refused on the base of most of them.
    pub(crate) fn add(
        &mut self,
        id: &str,
        section: &'static str,
        comment: &str,
        error: (&'static str, u64),
        file: Vec<u8>,
    ) {
        self.add_on(id, section, comment, Some(self.states.get("several")), error, file);
    }

    /// A file that is refused on this base.
    pub(crate) fn add_on(
        &mut self,
        id: &str,
        section: &'static str,
        comment: &str,
        base: Option<&State>,
        error: (&'static str, u64),
        file: Vec<u8>,
    ) {
        let id = format!("{}{id}", self.prefix);
        self.all.push(Vector::refused(id, section, comment, base, error, file));
    }
}
