//! Whether what a directory holds is what its state file says, where nothing newer asks for it.

use super::directory::{InstalledVersion, ReplicaDir};
use super::options::Verify;
use super::{Replica, install, update};
use crate::error::StoreError;
use crate::local::blocking;

impl Replica {
    /// Checks that the weights are those of the version that the state file says, if the options ask for it; if
    /// they are not, it says so from then on. Whether they were checked.
    pub(super) async fn verify_held(
        &self,
        directory: &ReplicaDir,
        held: Option<&InstalledVersion>,
    ) -> Result<bool, StoreError> {
        let is_asked = match self.options.verify {
            Verify::WhereTrusted => self.stream.trusts_keys(),
            Verify::Always => true,
            Verify::Never => false,
        };
        let Some(held) = held.filter(|_| is_asked).cloned() else { return Ok(false) };
        let (directory, options, stream) = (directory.clone(), self.options.apply.clone(), self.stream.id());
        blocking(move || {
            let found = install::is_version(directory.path(), &held, &options);
            found.map_err(|error| update::damage_noted(&directory, stream, &held, error))
        })
        .await?;
        Ok(true)
    }
}
