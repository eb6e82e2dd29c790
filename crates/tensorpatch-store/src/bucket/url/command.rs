//! Credentials that a command prints: `credential_process` of a profile, or the AWS command line itself,
//! which follows single sign-on and roles.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error, Result};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::environment::check_plain;
use crate::cause::NO_CREDENTIALS;

/// How long credentials that expire are used before the command is asked again: the tools keep them
/// themselves, and give new ones five minutes before the old ones end.
const KEPT: Duration = Duration::from_secs(240);

/// Asks a command, and remembers what it said.
#[derive(Debug)]
pub(super) struct CommandCredentials {
    program: Vec<String>,
    /// What to do if there is no such program or it fails.
    otherwise: String,
    known: Mutex<Option<Known>>,
}

#[derive(Debug)]
struct Known {
    credential: Arc<AwsCredential>,
    /// When to ask again; never for what does not expire.
    until: Option<Instant>,
}

/// What the command prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

impl CommandCredentials {
    /// The `credential_process` of a profile: a command line for the shell.
    pub(super) fn process(profile: &str, command: &str) -> Self {
        let program = ["sh", "-c", command].map(str::to_owned).to_vec();
        let otherwise = format!("the credential_process of the profile {profile:?} gave none");
        Self { program, otherwise, known: Mutex::default() }
    }

    /// The AWS command line, for what only it can follow: `what` of a profile.
    pub(super) fn tools(profile: &str, what: &str) -> Self {
        let arguments = ["aws", "configure", "export-credentials", "--profile", profile, "--format"];
        let export = format!("aws configure export-credentials --profile {profile} --format env");
        let program = arguments.into_iter().chain(["process"]).map(str::to_owned).collect();
        let otherwise = format!(
            "the profile {profile:?} gets its credentials by {what}, which takes the AWS command line (version 2): \
             log in with it, or set the keys with eval \"$({export})\""
        );
        Self { program, otherwise, known: Mutex::default() }
    }

    fn ask(program: &[String]) -> std::result::Result<Printed, String> {
        let (name, arguments) = program.split_first().ok_or("there is no command")?;
        let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{name}: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return Err(format!("{name} ended with {}: {}", output.status, last.trim()));
        }
        let printed: Printed = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("what {name} printed is no credentials: {error}"))?;
        check_plain("AccessKeyId", &printed.access_key_id)?;
        check_plain("SecretAccessKey", &printed.secret_access_key)?;
        check_plain("SessionToken", printed.session_token.as_deref().unwrap_or_default())?;
        Ok(printed)
    }
}

#[async_trait]
impl CredentialProvider for CommandCredentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        // Held while the command runs, so that requests at once ask once.
        let mut known = self.known.lock().await;
        if let Some(Known { credential, until }) = &*known
            && until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(Arc::clone(credential));
        }
        let program = self.program.clone();
        let asked = tokio::task::spawn_blocking(move || Self::ask(&program)).await;
        let printed = asked.map_err(|source| Error::JoinError { source })?.map_err(|why| {
            let source = format!("{NO_CREDENTIALS}: {} ({why})", self.otherwise).into();
            Error::Generic { store: "S3", source }
        })?;
        let until = printed.expiration.is_some().then(|| Instant::now().checked_add(KEPT)).flatten();
        let credential = Arc::new(AwsCredential {
            key_id: printed.access_key_id,
            secret_key: printed.secret_access_key,
            token: printed.session_token.filter(|token| !token.is_empty()),
        });
        *known = Some(Known { credential: Arc::clone(&credential), until });
        Ok(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::Cause;

    async fn ask(command: &str) -> Result<Arc<AwsCredential>> {
        CommandCredentials::process("lab", command).get_credential().await
    }

    #[tokio::test]
    async fn a_command_is_asked_once_for_credentials_that_do_not_expire() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let command = format!(
            "echo x >> '{}'; echo '{{\"Version\": 1, \"AccessKeyId\": \"A\", \"SecretAccessKey\": \"s\"}}'",
            count.display()
        );
        let credentials = CommandCredentials::process("lab", &command);
        for _ in 0..3 {
            let credential = credentials.get_credential().await.unwrap();
            assert_eq!((credential.key_id.as_str(), credential.token.as_deref()), ("A", None));
        }
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
    }

    #[tokio::test]
    async fn a_command_that_gives_none_is_named_with_what_it_said() {
        for (command, said) in [
            ("echo 'The SSO session has expired' >&2; exit 255", "The SSO session has expired"),
            ("echo hello", "no credentials"),
            ("echo '{\"AccessKeyId\": \"A B\", \"SecretAccessKey\": \"s\"}'", "AccessKeyId"),
        ] {
            let error = ask(command).await.unwrap_err();
            assert_eq!(Cause::of(&error), Cause::NoCredentials);
            let told = error.to_string();
            assert!(told.contains("\"lab\"") && told.contains(said), "{told}");
        }
    }

    #[tokio::test]
    async fn a_profile_that_only_the_tools_can_follow_is_refused_with_the_command_that_exports_its_keys() {
        let mut credentials = CommandCredentials::tools("lab", "single sign-on (sso_session)");
        credentials.program = vec!["/no/such/aws".into()];
        let told = credentials.get_credential().await.unwrap_err().to_string();
        assert!(told.contains("aws configure export-credentials --profile lab --format env"), "{told}");
    }
}
