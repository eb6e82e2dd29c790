//! Profiles of the AWS tools: what `~/.aws/config` and `~/.aws/credentials` say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::environment::{Environment, expand_home};

const MAX_BYTES: u64 = 1 << 20;

/// Settings by key; those of a nested table are `TABLE.KEY`, such as `s3.addressing_style`.
type Section = BTreeMap<String, String>;

/// One profile.
#[derive(Debug, Clone, Default)]
pub(super) struct Profile {
    name: String,
    settings: Section,
    /// The section of `services = NAME`.
    services: Section,
}

/// Where a profile says that its credentials come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Keys that the files hold.
    Keys { key_id: String, secret_key: String, token: Option<String> },
    /// A command line that prints them as JSON.
    Command(String),
    /// A token file and a role.
    WebIdentity { token_file: String, role: String },
    /// Something that only the AWS tools can follow, in their words.
    Tools(&'static str),
    /// The profile has none.
    None,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or the default one.
    pub(super) fn load(environment: &Environment) -> Result<Self, String> {
        let named = environment.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
        let name = named.map_or("default", |(_, name)| name);
        let config = file("AWS_CONFIG_FILE", "config", environment);
        let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials", environment);
        let [config_text, credentials_text] = [&config, &credentials].map(|path| text(path.as_ref()));
        match (named, Self::parse(name, &config_text?, &credentials_text?)) {
            (_, Some(profile)) => Ok(profile),
            (None, None) => Ok(Self { name: name.to_owned(), ..Self::default() }),
            (Some((variable, name)), None) => {
                let shown = |path: Option<PathBuf>| path.unwrap_or_default().display().to_string();
                let (config, credentials) = (shown(config), shown(credentials));
                Err(format!("{variable}: there is no profile {name:?} in {config} or {credentials}"))
            }
        }
    }

    /// `None` if neither text has the profile.
    fn parse(name: &str, config: &str, credentials: &str) -> Option<Self> {
        let mut config = sections(config);
        let of_config = config.remove(&format!("profile {name}"));
        let of_config = of_config.or_else(|| config.remove(name).filter(|_| name == "default"));
        let of_credentials = sections(credentials).remove(name);
        let mut settings = match (of_config, of_credentials) {
            (None, None) => return None,
            (config, credentials) => {
                let mut settings = config.unwrap_or_default();
                // Keys are taken together from one file, or a key of one would get the secret of another.
                if let Some(credentials) = credentials.filter(|section| !section.is_empty()) {
                    if credentials.contains_key("aws_access_key_id") {
                        settings.remove("aws_session_token");
                    }
                    settings.extend(credentials);
                }
                settings
            }
        };
        settings.retain(|_, value| !value.is_empty());
        let services = settings.get("services").and_then(|name| config.remove(&format!("services {name}")));
        Some(Self { name: name.to_owned(), settings, services: services.unwrap_or_default() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// The endpoint for S3: that of the services section goes before that of the profile.
    pub(super) fn endpoint(&self) -> Option<&str> {
        self.services.get("s3.endpoint_url").map(String::as_str).or_else(|| self.get("endpoint_url"))
    }

    /// Where the credentials come from, in the order of the AWS tools.
    pub(super) fn source(&self) -> Result<Source, String> {
        let has = |key| self.get(key).is_some();
        if has("role_arn") && (has("source_profile") || has("credential_source")) {
            return Ok(Source::Tools("a role (role_arn)"));
        }
        if let (Some(role), Some(token_file)) = (self.get("role_arn"), self.get("web_identity_token_file")) {
            return Ok(Source::WebIdentity { token_file: token_file.to_owned(), role: role.to_owned() });
        }
        if has("sso_session") || has("sso_start_url") {
            return Ok(Source::Tools("single sign-on (sso_session)"));
        }
        if has("login_session") {
            return Ok(Source::Tools("a console login (login_session)"));
        }
        match (self.get("aws_access_key_id"), self.get("aws_secret_access_key")) {
            (Some(key_id), Some(secret_key)) => {
                return Ok(Source::Keys {
                    key_id: key_id.to_owned(),
                    secret_key: secret_key.to_owned(),
                    token: self.get("aws_session_token").map(str::to_owned),
                });
            }
            (None, None) => {}
            _ => {
                return Err(format!(
                    "the profile {:?} has only one of aws_access_key_id and aws_secret_access_key",
                    self.name
                ));
            }
        }
        if let Some(command) = self.get("credential_process") {
            return Ok(Source::Command(command.to_owned()));
        }
        if has("role_arn") {
            return Err(format!("the profile {:?} has a role_arn without a source_profile", self.name));
        }
        Ok(Source::None)
    }
}

fn file(variable: &str, name: &str, environment: &Environment) -> Option<PathBuf> {
    if let Some(path) = environment.get(variable) {
        return Some(expand_home(path));
    }
    Some(std::env::home_dir()?.join(".aws").join(name))
}

/// The text of a file; none is as good as an empty one.
fn text(path: Option<&PathBuf>) -> Result<String, String> {
    let Some(path) = path else { return Ok(String::new()) };
    let bytes = crate::local::read_file(path, MAX_BYTES).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
}

/// The sections by name, as the AWS tools read them: keys without regard to case, indented lines belong to
/// the key above them.
fn sections(text: &str) -> BTreeMap<String, Section> {
    let mut sections: BTreeMap<String, Section> = BTreeMap::new();
    let (mut section, mut table) = (None, None);
    for line in text.trim_start_matches('\u{feff}').lines() {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some((name, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let words: Vec<&str> = name.split_whitespace().collect();
            let name = words.join(" ").replace(['"', '\''], "");
            sections.entry(name.clone()).or_default();
            (section, table) = (Some(name), None);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let Some(section) = section.as_ref().and_then(|name| sections.get_mut(name)) else { continue };
        // A comment begins after a blank.
        let value =
            value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default().trim();
        let key = key.trim().to_ascii_lowercase();
        match &table {
            Some(table) if is_nested => section.insert(format!("{table}.{key}"), value.to_owned()),
            _ => {
                table = value.is_empty().then(|| key.clone());
                section.insert(key, value.to_owned())
            }
        };
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(config: &str) -> Result<Source, String> {
        Profile::parse("lab", &format!("[profile lab]\n{config}\n"), "").unwrap().source()
    }

    #[test]
    fn a_profile_is_put_together_from_both_files() {
        let credentials =
            "[other]\naws_access_key_id = X\n[lab]\nAWS_Access_Key_ID=A\naws_secret_access_key = s=1 \n";
        let config = "\u{feff}# comment\n[profile other]\nregion = mars\n[ profile  \"lab\" ]\nregion = eu-west-1 # here\n\
            aws_session_token = stale\nservices = mine\ns3 =\n  addressing_style = virtual\nca_bundle =\n\
            [services mine]\ns3 =\n  endpoint_url = http://h:1\ndynamodb =\n  endpoint_url = http://h:2\n";
        let profile = Profile::parse("lab", config, credentials).unwrap();
        assert_eq!(profile.get("region"), Some("eu-west-1"));
        assert_eq!(profile.get("s3.addressing_style"), Some("virtual"));
        assert_eq!(profile.get("ca_bundle"), None);
        assert_eq!(profile.endpoint(), Some("http://h:1"));
        let keys = Source::Keys { key_id: "A".into(), secret_key: "s=1".into(), token: None };
        assert_eq!(profile.source().unwrap(), keys);
        assert!(Profile::parse("typo", config, credentials).is_none());
        // In the configuration only the default profile stands without the word.
        assert!(Profile::parse("bare", "[bare]\nregion = x\n", "").is_none());
        assert!(Profile::parse("default", "[default]\nregion = x\n", "").is_some());
    }

    #[test]
    fn every_kind_of_source_is_told_apart() {
        for (config, expected) in [
            ("role_arn = r\nsource_profile = base", Source::Tools("a role (role_arn)")),
            ("role_arn = r\ncredential_source = Environment", Source::Tools("a role (role_arn)")),
            ("sso_session = corp", Source::Tools("single sign-on (sso_session)")),
            ("sso_start_url = https://x", Source::Tools("single sign-on (sso_session)")),
            ("credential_process = /bin/helper --for lab", Source::Command("/bin/helper --for lab".into())),
            (
                "role_arn = r\nweb_identity_token_file = /t",
                Source::WebIdentity { token_file: "/t".into(), role: "r".into() },
            ),
            ("region = eu-west-1", Source::None),
        ] {
            assert_eq!(source(config).unwrap(), expected, "{config}");
        }
        for config in ["aws_access_key_id = A", "aws_secret_access_key = s", "role_arn = r"] {
            assert!(source(config).unwrap_err().contains("\"lab\""), "{config}");
        }
    }
}
