//! A vector: a file, and what a decoder must say of it.

use crate::state::State;
use crate::states::states;

/// What a decoder must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The patch gives this state.
    Target(&'static str),
    /// It is refused.
    Refused {
        /// The code of the class.
        code: &'static str,
        /// The offset in the file.
        offset: u64,
    },
}

/// A file and what is to be said of it.
#[derive(Debug, Clone)]
pub struct Vector {
    /// Unique, and never used again for another vector.
    pub id: String,
    /// What it shows, in a sentence.
    pub comment: String,
    /// The section of the specification that decides.
    pub section: &'static str,
    /// What it needs of a reader, or is made for.
    pub flags: Vec<&'static str>,
    /// The state that it is to be applied to.
    pub base: Option<&'static str>,
    /// What must come out.
    pub outcome: Outcome,
    /// Where the layout begins, if no checkpoint can have it (section 2.2): a reader that writes files
    /// refuses the patch there.
    pub unwritable: Option<u64>,
    /// The bytes of the patch.
    pub file: Vec<u8>,
}

impl Vector {
    pub(crate) fn valid(
        id: impl Into<String>,
        section: &'static str,
        comment: impl Into<String>,
        base: Option<&State>,
        target: &State,
        file: Vec<u8>,
    ) -> Self {
        let (id, comment) = (id.into(), comment.into());
        let (base, outcome) = (base.map(|base| base.id), Outcome::Target(target.id));
        Self { id, comment, section, flags: Vec::new(), base, outcome, unwritable: None, file }
    }

    pub(crate) fn refused(
        id: impl Into<String>,
        section: &'static str,
        comment: impl Into<String>,
        base: Option<&State>,
        (code, offset): (&'static str, u64),
        file: Vec<u8>,
    ) -> Self {
        let (id, comment) = (id.into(), comment.into());
        let (base, outcome) = (base.map(|base| base.id), Outcome::Refused { code, offset });
        Self { id, comment, section, flags: Vec::new(), base, outcome, unwritable: None, file }
    }

    /// A valid one whose layout no checkpoint can have. The layout begins at `offset`.
    pub(crate) fn unwritable(self, offset: u64) -> Self {
        Self { unwritable: Some(offset), ..self }
    }

    pub(crate) fn flagged(mut self, flag: &'static str) -> Self {
        self.flags.push(flag);
        self
    }
}

/// The states that vectors start from and lead to, by name.
#[derive(Debug)]
pub struct States(Vec<State>);

impl States {
    pub(crate) fn make() -> Self {
        Self(states())
    }

    pub(crate) fn get(&self, id: &str) -> &State {
        self.0.iter().find(|state| state.id == id).unwrap_or_else(|| panic!("no state {id}"))
    }

    /// A state as the fast decoder has it. Panics if there is none of this name.
    pub fn model(&self, id: &str) -> tensorpatch_testkit::Model {
        self.get(id).model()
    }

    pub(crate) fn all(&self) -> &[State] {
        &self.0
    }
}
