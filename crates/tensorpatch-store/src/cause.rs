//! Why a store or a file system refused or failed, told from what it said.
//!
//! Providers and file systems have many words for the same few causes. Whether to try again, what kind of
//! error it is and what to advise follow from the cause alone, here and nowhere else.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind as IoErrorKind};

use tensorpatch_format::ErrorKind;

/// How much of an answer that is not understood is shown.
const SHOWN_CHARS: usize = 400;

/// Why a store or a file system refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// No credentials were found.
    NoCredentials,
    /// The credentials have expired.
    CredentialsExpired,
    /// The store does not know the key, or the signature does not fit it.
    CredentialsRefused,
    /// The clock of this machine is wrong.
    Clock,
    /// The credentials do not allow the request.
    NotAllowed,
    /// The bucket is in another region.
    WrongRegion,
    /// The bucket does not exist.
    NoBucket,
    /// The certificate of the server is not trusted.
    Certificate,
    /// The server does not speak TLS.
    NoTls,
    /// The proxy asks for a login.
    ProxyLogin,
    /// Something else than the store answered, such as a login page.
    NotTheStore,
    /// The object is in an archive, from which it must be restored first.
    Archived,
    /// Nobody answers.
    Unreachable,
    /// The store is overloaded or out of order.
    Busy,
    /// A part of an upload is smaller than the store takes.
    SmallPart,
    /// A mount was lost.
    MountLost,
    /// There is no room, or the quota is used up.
    NoRoom,
    /// The file system is mounted read-only.
    ReadOnly,
    /// The file system does not permit it.
    NotPermitted,
    /// The store or the file system cannot do this at all.
    NotSupported,
    /// A failure that is not known, and may pass.
    Fault,
    /// A failure that is not known, and does not pass by itself.
    Other,
}

impl Cause {
    /// The causes that may pass without anybody doing anything.
    pub const PASSING: [Self; 4] = [Self::Unreachable, Self::Busy, Self::MountLost, Self::Fault];

    /// Its name, for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::CredentialsExpired => "credentials_expired",
            Self::CredentialsRefused => "credentials_refused",
            Self::Clock => "clock",
            Self::NotAllowed => "not_allowed",
            Self::WrongRegion => "wrong_region",
            Self::NoBucket => "no_bucket",
            Self::Certificate => "certificate",
            Self::NoTls => "no_tls",
            Self::ProxyLogin => "proxy_login",
            Self::NotTheStore => "not_the_store",
            Self::Archived => "archived",
            Self::Unreachable => "unreachable",
            Self::Busy => "busy",
            Self::SmallPart => "small_part",
            Self::MountLost => "mount_lost",
            Self::NoRoom => "no_room",
            Self::ReadOnly => "read_only",
            Self::NotPermitted => "not_permitted",
            Self::NotSupported => "not_supported",
            Self::Fault => "fault",
            Self::Other => "other",
        }
    }

    /// The cause of an error of a store.
    pub fn of(error: &object_store::Error) -> Self {
        match error {
            object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
                return Self::NotSupported;
            }
            object_store::Error::JoinError { .. } => return Self::Fault,
            _ => {}
        }
        if let Some(cause) = Answer::of(error).cause() {
            return cause;
        }
        if let Some(io) = io_error(error) {
            return Self::of_io(io);
        }
        match error {
            object_store::Error::PermissionDenied { .. } => Self::NotAllowed,
            object_store::Error::Unauthenticated { .. } => Self::CredentialsRefused,
            object_store::Error::Generic { .. } if Answer::of(error).status().is_none() => Self::Fault,
            _ => Self::Other,
        }
    }

    /// The cause of an error of the operating system.
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            IoErrorKind::StorageFull | IoErrorKind::QuotaExceeded => Self::NoRoom,
            IoErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            IoErrorKind::PermissionDenied => Self::NotPermitted,
            IoErrorKind::Unsupported => Self::NotSupported,
            IoErrorKind::StaleNetworkFileHandle | IoErrorKind::NotConnected => Self::MountLost,
            IoErrorKind::ConnectionRefused
            | IoErrorKind::ConnectionReset
            | IoErrorKind::ConnectionAborted
            | IoErrorKind::HostUnreachable
            | IoErrorKind::NetworkUnreachable
            | IoErrorKind::TimedOut => Self::Unreachable,
            IoErrorKind::Interrupted => Self::Fault,
            _ => Self::Other,
        }
    }

    /// Whether the same request may succeed later without anybody doing anything.
    pub fn may_pass(self) -> bool {
        Self::PASSING.contains(&self)
    }

    /// Who must act on it.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::NoBucket => ErrorKind::NotFound,
            Self::NoCredentials
            | Self::CredentialsExpired
            | Self::CredentialsRefused
            | Self::Clock
            | Self::NotAllowed
            | Self::ReadOnly
            | Self::NotPermitted => ErrorKind::Denied,
            cause if cause.may_pass() => ErrorKind::Transient,
            _ => ErrorKind::Io,
        }
    }

    /// The cause in a few words; `None` where only the text of the error says it.
    fn summary(self) -> Option<&'static str> {
        Some(match self {
            Self::NoCredentials => "no credentials were found",
            Self::CredentialsExpired => "the credentials have expired",
            Self::CredentialsRefused => "the store does not accept the credentials",
            Self::Clock => "the clock of this machine is wrong",
            Self::NotAllowed => "the credentials do not allow this",
            Self::WrongRegion => "the bucket is in another region",
            Self::NoBucket => "the bucket does not exist",
            Self::Certificate => "the certificate of the server is not trusted",
            Self::NoTls => "the server does not speak TLS",
            Self::ProxyLogin => "the proxy asks for a login",
            Self::NotTheStore => "what answered is not the store",
            Self::Archived => "the object is in an archive storage class",
            Self::Unreachable => "the store does not answer",
            Self::Busy => "the store is overloaded or out of order",
            Self::SmallPart => "a part of an upload is smaller than the store takes",
            Self::MountLost => "the mount was lost",
            Self::NoRoom => "no room",
            Self::ReadOnly => "the file system is read-only",
            Self::NotPermitted => "no permission",
            Self::NotSupported => "the store or file system cannot do this",
            Self::Fault | Self::Other => return None,
        })
    }

    /// What to do about it; `None` where nothing can be said that fits.
    pub fn advice(self) -> Option<&'static str> {
        Some(match self {
            Self::NoCredentials => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for s3://; \
                 AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY for az://; \
                 GOOGLE_APPLICATION_CREDENTIALS for gs://"
            }
            Self::CredentialsExpired => {
                "get new credentials, such as with aws sso login or \
                 eval \"$(aws configure export-credentials --format env)\""
            }
            Self::CredentialsRefused => {
                "check the key id, the secret key and the endpoint: they must belong together"
            }
            Self::Clock => "set the clock of this machine, such as with NTP",
            Self::NotAllowed => {
                "allow listing the bucket and reading below the URL, to publish also writing; gc deletes"
            }
            Self::WrongRegion => "set AWS_REGION to the region of the bucket",
            Self::NoBucket => "check the URL, or create the bucket",
            Self::Certificate => {
                "name the file of the certificate authority with AWS_CA_BUNDLE or SSL_CERT_FILE"
            }
            Self::NoTls => {
                "check the port of the endpoint; one that speaks plain HTTP is written with http://"
            }
            Self::ProxyLogin => {
                "put the login into HTTPS_PROXY (http://USER:PASSWORD@HOST:PORT), or add the store to NO_PROXY"
            }
            Self::NotTheStore => {
                "check the endpoint and the proxy: a login page or a gateway answers in the place of the store"
            }
            Self::Archived => {
                "restore the object from the archive first, and keep streams out of archive storage classes"
            }
            Self::Unreachable => {
                "check the URL or endpoint and the network; if they are right, try again later"
            }
            Self::Busy => "try again later",
            Self::SmallPart => {
                "raise part_bytes (--part-bytes, TENSORPATCH_PART_BYTES): S3 takes no less than 5MiB"
            }
            Self::MountLost => "mount it again",
            Self::NoRoom => {
                "free some room, raise the quota or write elsewhere, then run the same command again"
            }
            Self::ReadOnly => "mount it for writing, or use another directory",
            Self::NotPermitted => "run it as the owner of the files, or change their permissions",
            Self::NotSupported => {
                "use a directory on another file system, or another store: docs/stores.md says what each must have"
            }
            Self::Fault => "try again",
            Self::Other => return None,
        })
    }
}

/// What the system said, after the words that all use for it where there is no room.
pub(crate) fn told_io(error: &io::Error) -> String {
    match Cause::of_io(error) {
        Cause::NoRoom => format!("no room ({error})"),
        _ => error.to_string(),
    }
}

/// An error of a store in one line: the cause, and what the store said.
pub(crate) struct Told<'a>(pub(crate) &'a object_store::Error);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = Answer::of(self.0);
        let said = match (answer.code(), answer.message()) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(only), None) | (None, Some(only)) => only.to_owned(),
            (None, None) => io_error(self.0).map_or_else(|| answer.last_words(), ToString::to_string),
        };
        match Cause::of(self.0).summary() {
            Some(summary) => write!(f, "{summary} ({})", one_line(&said)),
            None => f.write_str(&one_line(&said)),
        }
    }
}

/// What a store answered, as text: the client keeps nothing else.
struct Answer(String);

impl Answer {
    fn of(error: &object_store::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        Self(text)
    }

    /// The provider's code for the error.
    fn code(&self) -> Option<&str> {
        between(&self.0, "<Code>", "</Code>")
    }

    fn message(&self) -> Option<&str> {
        between(&self.0, "<Message>", "</Message>")
    }

    /// The HTTP status of an answer that was an error.
    fn status(&self) -> Option<u16> {
        let (_, rest) = self.0.split_once("status code: ")?;
        rest.get(..3)?.parse().ok()
    }

    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.0.contains(word))
    }

    /// What is left when the client's own words about the request are taken away.
    fn last_words(&self) -> String {
        let text = self.0.rsplit_once(" - ").map_or(self.0.as_str(), |(_, said)| said);
        let text = match text.strip_prefix("Generic ").and_then(|text| text.split_once(" error: ")) {
            Some((_, said)) => said,
            None => text,
        };
        text.trim_start_matches("HTTP error: ").to_owned()
    }

    fn cause(&self) -> Option<Cause> {
        if let Some(cause) = self.code().and_then(Self::of_code) {
            return Some(cause);
        }
        let lower = self.0.to_ascii_lowercase();
        let is_page = lower.contains("<html") || lower.contains("<!doctype html");
        Some(match self.status() {
            Some(407) => Cause::ProxyLogin,
            Some(507) => Cause::NoRoom,
            Some(501) => Cause::NotSupported,
            Some(511) => Cause::NotTheStore,
            Some(408 | 425 | 429 | 500..) => Cause::Busy,
            Some(401) => Cause::CredentialsRefused,
            Some(403) if is_page => Cause::NotTheStore,
            Some(403) => Cause::NotAllowed,
            Some(300..=399) => Cause::WrongRegion,
            Some(400..) if is_page => Cause::NotTheStore,
            // A 404 without a code, and a 412, say that there is no such object, or is one.
            Some(404 | 409 | 412) => return None,
            Some(_) => Cause::Other,
            None if self.has(&[NO_CREDENTIALS, "/latest/api/token", "169.254.170.2"]) => Cause::NoCredentials,
            None if self.has(&[WRONG_REGION, "redirect without LOCATION"]) => Cause::WrongRegion,
            None if lower.contains("proxy")
                && self.has(&["407", "authorization required", "authentication required"]) =>
            {
                Cause::ProxyLogin
            }
            None if self.has(&["InvalidContentType", "corrupt message"]) => Cause::NoTls,
            None if self.has(&["certificate", "UnknownIssuer"]) => Cause::Certificate,
            None if is_page || self.has(&[NOT_THE_STORE, "invalid list response", "Got invalid"]) => {
                Cause::NotTheStore
            }
            None if self.has(&[
                "dns error",
                "error trying to connect",
                "tcp connect error",
                "no answer within",
            ]) =>
            {
                Cause::Unreachable
            }
            None if self.has(&["operation timed out", "error sending request", "connection closed"]) => {
                Cause::Unreachable
            }
            None => return None,
        })
    }

    /// The codes of S3, its compatibles and Azure.
    fn of_code(code: &str) -> Option<Cause> {
        Some(match code {
            "ExpiredToken"
            | "ExpiredTokenException"
            | "TokenRefreshRequired"
            | "RequestExpired"
            | "InvalidAuthenticationInfo" => Cause::CredentialsExpired,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "InvalidSecurity"
            | "AuthenticationFailed"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException" => Cause::CredentialsRefused,
            "RequestTimeTooSkewed" | "RequestInTheFuture" => Cause::Clock,
            "EntityTooSmall" => Cause::SmallPart,
            "AccessDenied"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "NotSignedUp"
            | "AuthorizationFailure"
            | "AuthorizationPermissionMismatch"
            | "InsufficientAccountPermissions"
            | "UnauthorizedAccess" => Cause::NotAllowed,
            "AuthorizationHeaderMalformed"
            | "PermanentRedirect"
            | "IllegalLocationConstraintException"
            | "TemporaryRedirect"
            | "IncorrectEndpoint" => Cause::WrongRegion,
            "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" => Cause::NoBucket,
            "InvalidObjectState" | "BlobArchived" | "BlobBeingRehydrated" => Cause::Archived,
            "QuotaExceeded"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded"
            | "EntityTooLarge"
            | "StorageQuotaExceeded"
            | "InsufficientCapacity" => Cause::NoRoom,
            "NotImplemented" | "UnsupportedHeader" => Cause::NotSupported,
            "SlowDown"
            | "ServiceUnavailable"
            | "InternalError"
            | "ServerBusy"
            | "RequestTimeout"
            | "OperationTimedOut"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests" => Cause::Busy,
            _ => return None,
        })
    }
}

/// Said by the client of this crate where no source of credentials answers.
pub(crate) const NO_CREDENTIALS: &str = "no source of credentials answers";
/// Said by the client of this crate where the bucket is in another region.
pub(crate) const WRONG_REGION: &str = "the region of the bucket is";
/// Said by the client of this crate of an answer that is no object.
pub(crate) const NOT_THE_STORE: &str = "the answer is not an object";

/// Whether an error says that there is no such object, in a bucket that exists.
pub(crate) fn is_absent(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && Cause::of(error) != Cause::NoBucket
}

fn io_error(error: &object_store::Error) -> Option<&io::Error> {
    let mut next = error.source();
    let mut found = None;
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            found = Some(io);
        }
        next = cause.source();
    }
    found
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inner, _)| inner.trim())
}

fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !c.is_control()));
    }
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{} ...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &str, body: &str) -> object_store::Error {
        let text = format!(
            "Error performing GET http://h/b/k in 1ms - Server returned non-2xx status code: {status}: {body}"
        );
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    fn coded(status: &str, code: &str) -> object_store::Error {
        answered(
            status,
            &format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>Why.</Message></Error>"),
        )
    }

    fn local(error: io::Error) -> object_store::Error {
        object_store::Error::Generic { store: "LocalFileSystem", source: error.into() }
    }

    #[test]
    fn what_a_provider_says_has_one_cause_each() {
        for (status, code, cause) in [
            ("400 Bad Request", "ExpiredToken", Cause::CredentialsExpired),
            ("403 Forbidden", "RequestTimeTooSkewed", Cause::Clock),
            ("403 Forbidden", "SignatureDoesNotMatch", Cause::CredentialsRefused),
            ("403 Forbidden", "AccessDenied", Cause::NotAllowed),
            ("403 Forbidden", "InvalidObjectState", Cause::Archived),
            ("403 Forbidden", "QuotaExceeded", Cause::NoRoom),
            ("400 Bad Request", "AuthorizationHeaderMalformed", Cause::WrongRegion),
            ("404 Not Found", "NoSuchBucket", Cause::NoBucket),
            ("501 Not Implemented", "NotImplemented", Cause::NotSupported),
            ("503 Service Unavailable", "SlowDown", Cause::Busy),
            ("400 Bad Request", "SomethingNew", Cause::Other),
            ("500 Internal Server Error", "SomethingNew", Cause::Busy),
        ] {
            let error = coded(status, code);
            assert_eq!(Cause::of(&error), cause, "{status} {code}");
            let told = Told(&error).to_string();
            assert!(told.contains(&format!("{code}: Why.")) && !told.contains(['<', '\n']), "{told}");
        }
    }

    #[test]
    fn answers_without_a_code_are_known_by_their_status_or_their_words() {
        let connect =
            |what: &str| object_store::Error::Generic { store: "S3", source: what.to_owned().into() };
        for (error, cause) in [
            (answered("407 Proxy Authentication Required", ""), Cause::ProxyLogin),
            (answered("502 Bad Gateway", "<html>Bad Gateway</html>"), Cause::Busy),
            (answered("404 Not Found", "<html>nginx</html>"), Cause::NotTheStore),
            (answered("507 Insufficient Storage", ""), Cause::NoRoom),
            (
                connect("PUT http://169.254.169.254/latest/api/token: Connection refused"),
                Cause::NoCredentials,
            ),
            (connect("invalid peer certificate: UnknownIssuer"), Cause::Certificate),
            (connect("received corrupt message of type InvalidContentType"), Cause::NoTls),
            (connect("client error (Connect): dns error: failed to lookup"), Cause::Unreachable),
            (connect("Got invalid list response: expected Event::Eof"), Cause::NotTheStore),
            (connect("an error that nobody knows"), Cause::Fault),
        ] {
            assert_eq!(Cause::of(&error), cause, "{error}");
        }
    }

    #[test]
    fn errors_of_the_operating_system_are_told_apart() {
        for (number, cause) in [
            (28, Cause::NoRoom),
            (122, Cause::NoRoom),
            (30, Cause::ReadOnly),
            (13, Cause::NotPermitted),
            (1, Cause::NotPermitted),
            (38, Cause::NotSupported),
            (95, Cause::NotSupported),
            (116, Cause::MountLost),
            (107, Cause::MountLost),
            (5, Cause::Other),
        ] {
            assert_eq!(Cause::of(&local(io::Error::from_raw_os_error(number))), cause, "errno {number}");
        }
    }

    #[test]
    fn only_what_can_pass_is_tried_again_and_everything_else_has_advice() {
        for cause in Cause::PASSING {
            assert!(cause.may_pass() && cause.kind() == ErrorKind::Transient, "{cause:?}");
        }
        for cause in [
            Cause::NoCredentials,
            Cause::CredentialsExpired,
            Cause::CredentialsRefused,
            Cause::Clock,
            Cause::NotAllowed,
            Cause::WrongRegion,
            Cause::NoBucket,
            Cause::Certificate,
            Cause::NoTls,
            Cause::ProxyLogin,
            Cause::NotTheStore,
            Cause::Archived,
            Cause::NoRoom,
            Cause::ReadOnly,
            Cause::NotPermitted,
            Cause::NotSupported,
        ] {
            assert!(!cause.may_pass() && cause.advice().is_some(), "{cause:?}");
            assert_ne!(cause.advice(), Cause::Fault.advice(), "{cause:?}");
        }
    }
}
