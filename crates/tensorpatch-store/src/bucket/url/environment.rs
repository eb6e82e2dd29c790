//! Settings of a provider in the environment, as its own tools read them.
//!
//! Secrets come out of files and command lines with a line break at their end, and out of templates empty.
//! What can be meant only one way is taken that way; the rest is refused by the name of the variable, before
//! the client makes headers and URLs of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use object_store::{Certificate, ClientOptions};

const MAX_BUNDLE_BYTES: u64 = 16 << 20;

/// Variables that have a value, without the white space around it.
#[derive(Debug, Clone, Default)]
pub(super) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process that begin with one of `prefixes`.
    pub(super) fn of_process(prefixes: &[&str]) -> Result<Self, String> {
        Self::from_variables(std::env::vars_os(), prefixes)
    }

    fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        prefixes: &[&str],
    ) -> Result<Self, String> {
        let mut found = BTreeMap::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| prefixes.iter().any(|p| name.starts_with(p))) else {
                continue;
            };
            let value = value.to_str().ok_or_else(|| format!("{name} is not text in UTF-8"))?.trim();
            if !value.is_empty() {
                check_value(name, value)?;
                found.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(Self(found))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The first of `names` that is set, and its value.
    pub(super) fn first<'a>(&'a self, names: &[&'a str]) -> Option<(&'a str, &'a str)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Refuses what would break a header or a URL.
fn check_value(name: &str, value: &str) -> Result<(), String> {
    const HEADERS: [&str; 6] =
        ["_KEY_ID", "_ACCESS_KEY", "_SESSION_TOKEN", "_REGION", "_ACCOUNT_KEY", "_CLIENT_ID"];
    if value.chars().any(char::is_control) {
        return Err(format!("{name} has a line break or another control character in it"));
    }
    if name.contains("ENDPOINT") {
        check_endpoint(name, value)?;
    }
    if HEADERS.iter().any(|end| name.ends_with(end)) {
        check_plain(name, value)?;
    }
    Ok(())
}

/// Refuses what is not printable ASCII without blanks.
pub(super) fn check_plain(name: &str, value: &str) -> Result<(), String> {
    match value.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(format!("{name} has a blank or a character that no key, token or region has")),
    }
}

/// Refuses what is no region, since it becomes part of a host name.
pub(super) fn check_region(name: &str, value: &str) -> Result<(), String> {
    match value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
        true => Ok(()),
        false => Err(format!("{name} = {value:?} is no region: expected one such as eu-west-1")),
    }
}

/// Refuses what is not the URL of a server.
pub(super) fn check_endpoint(name: &str, value: &str) -> Result<(), String> {
    // Not shown: it may be a password.
    if value.contains('@') {
        return Err(format!(
            "{name} has a user or a password in it, which no store takes: leave out all up to the @"
        ));
    }
    // What follows may be a signature.
    let shown = value.split(['?', '#']).next().unwrap_or_default();
    let refuse = |what: &str| Err(format!("{name} = {shown:?} {what}"));
    let Some(rest) = value.strip_prefix("http://").or_else(|| value.strip_prefix("https://")) else {
        return refuse(&format!(
            "must begin with http:// or https://, such as https://{}",
            shown.rsplit("//").next().unwrap_or(shown)
        ));
    };
    let (server, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (host, port) = match server.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (server, None),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_host) {
        return refuse("names no host");
    }
    if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return refuse("has no valid port");
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"{}|\\^`?#".contains(&byte)) {
        return refuse("has a path or a query that no endpoint has");
    }
    Ok(())
}

/// A path as the tools write it, with `~` for the home directory.
pub(super) fn expand_home(path: &str) -> PathBuf {
    let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    match path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        Some(rest) => home().map_or_else(|| path.into(), |home| home.join(rest.trim_start_matches('/'))),
        None => path.into(),
    }
}

/// Trusts the certificate authorities in the file that the variable or setting `name` names as well.
pub(super) fn trust_bundle(options: ClientOptions, name: &str, path: &str) -> Result<ClientOptions, String> {
    let file = expand_home(path);
    let bundle = match crate::local::read_file(&file, MAX_BUNDLE_BYTES) {
        Ok(Some(bundle)) => bundle,
        Ok(None) => return Err(format!("{name}: there is no file {}", file.display())),
        Err(error) => return Err(format!("{name}: {error}")),
    };
    let certificates = Certificate::from_pem_bundle(&bundle)
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| format!("{name}: {} has no certificates in PEM", file.display()))?;
    Ok(certificates.into_iter().fold(options, ClientOptions::with_root_certificate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        Environment::from_variables(variables, &["AWS_", "HF_S3_"])
    }

    #[test]
    fn white_space_around_a_value_goes_and_an_empty_one_counts_as_none() {
        let found = read(&[
            ("AWS_ACCESS_KEY_ID", " AKIA\r\n"),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_REGION", "\n"),
            ("OTHER", "x"),
        ])
        .unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), [("AWS_ACCESS_KEY_ID", "AKIA")]);
    }

    #[test]
    fn what_would_break_a_header_or_a_url_is_refused_by_the_name_of_its_variable() {
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", "AK IA"),
            ("AWS_SECRET_ACCESS_KEY", "s\ns"),
            ("AWS_SESSION_TOKEN", "t\u{e9}"),
            ("AWS_REGION", "us east"),
            ("AWS_ENDPOINT_URL", "127.0.0.1:9000"),
            ("AWS_ENDPOINT_URL_S3", "s3.example.com"),
            ("AWS_ENDPOINT_URL", "http://"),
            ("AWS_ENDPOINT_URL", "http://host:port"),
            ("AWS_ENDPOINT_URL", "http://host:99999"),
            ("AWS_ENDPOINT_URL", "http://ho st"),
            ("AWS_ENDPOINT_URL", "https://user:pw@host"),
            ("AWS_METADATA_ENDPOINT", "169.254.169.254"),
            ("HF_S3_ENDPOINT", "s3.hf.co"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
        for value in
            ["http://127.0.0.1:9000", "https://[::1]:9/", "https://s3.example.com/minio/", "http://a_b"]
        {
            read(&[("AWS_ENDPOINT_URL", value)]).unwrap();
        }
        assert!(check_region("AWS_REGION", "eu-west-1").is_ok());
        assert!(check_region("AWS_REGION", "a/b").is_err());
    }

    #[test]
    fn a_value_that_is_not_utf_8_is_refused_and_not_passed_over() {
        use std::os::unix::ffi::OsStringExt;
        let variables = [("AWS_SECRET_ACCESS_KEY".into(), OsString::from_vec(vec![b's', 0xff]))];
        let error = Environment::from_variables(variables, &["AWS_"]).unwrap_err();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
    }
}
