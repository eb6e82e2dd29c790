//! Static keys, region and endpoint from the files that the AWS command line writes.

use std::path::PathBuf;

use object_store::aws::AmazonS3Builder;

const MAX_BYTES: u64 = 1 << 20;

/// What a profile says. Single sign-on and credential processes are not followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Profile {
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    session_token: Option<String>,
    region: Option<String>,
    endpoint_url: Option<String>,
}

impl Profile {
    /// The profile that `AWS_PROFILE` names, or the default one; `None` if no file has keys for it.
    pub(super) fn load() -> Result<Option<Self>, String> {
        let named = std::env::var("AWS_PROFILE").ok();
        let name = named.as_deref().unwrap_or("default");
        let mut profile = Self::default();
        for (variable, file) in
            [("AWS_SHARED_CREDENTIALS_FILE", "credentials"), ("AWS_CONFIG_FILE", "config")]
        {
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".aws").join(file));
            let Some(path) = std::env::var_os(variable).map(PathBuf::from).or_else(home) else { continue };
            match crate::local::read_file(&path, MAX_BYTES) {
                Ok(None) => {}
                Ok(Some(bytes)) => profile.read(&String::from_utf8_lossy(&bytes), name),
                Err(error) => return Err(error.to_string()),
            }
        }
        if profile.access_key_id.is_some() && profile.secret_access_key.is_some() {
            return Ok(Some(profile));
        }
        match named {
            Some(name) => Err(format!("the profile {name:?} of AWS_PROFILE has no access key")),
            None => Ok(None),
        }
    }

    /// Takes what the section of `name` has, unless an earlier file had it.
    fn read(&mut self, text: &str, name: &str) {
        let mut wanted = false;
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                let section = section.trim();
                let section = section.strip_prefix("profile ").unwrap_or(section);
                wanted = section.trim() == name;
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| wanted) else { continue };
            let slot = match key.trim() {
                "aws_access_key_id" => &mut self.access_key_id,
                "aws_secret_access_key" => &mut self.secret_access_key,
                "aws_session_token" => &mut self.session_token,
                "region" => &mut self.region,
                "endpoint_url" => &mut self.endpoint_url,
                _ => continue,
            };
            slot.get_or_insert_with(|| value.trim().to_owned());
        }
    }

    /// Variables in the environment win over region and endpoint of a profile.
    pub(super) fn apply(self, mut builder: AmazonS3Builder) -> AmazonS3Builder {
        let set = |name: &str| std::env::var_os(name).is_some();
        if let Some(value) = self.access_key_id {
            builder = builder.with_access_key_id(value);
        }
        if let Some(value) = self.secret_access_key {
            builder = builder.with_secret_access_key(value);
        }
        if let Some(value) = self.session_token {
            builder = builder.with_token(value);
        }
        if let Some(value) = self.region.filter(|_| !set("AWS_REGION") && !set("AWS_DEFAULT_REGION")) {
            builder = builder.with_region(value);
        }
        if let Some(value) = self.endpoint_url.filter(|_| !set("AWS_ENDPOINT_URL") && !set("AWS_ENDPOINT")) {
            builder = builder.with_endpoint(value);
        }
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_put_together_from_both_files() {
        let mut profile = Profile::default();
        profile.read(
            "[other]\naws_access_key_id = X\n[lab]\naws_access_key_id=A\naws_secret_access_key = s=1 \n",
            "lab",
        );
        profile.read(
            "# comment\n[profile other]\nregion = mars\n[profile lab]\nregion = eu-west-1\naws_access_key_id = B\n",
            "lab",
        );
        let expected = Profile {
            access_key_id: Some("A".into()),
            secret_access_key: Some("s=1".into()),
            region: Some("eu-west-1".into()),
            ..Profile::default()
        };
        assert_eq!(profile, expected);
    }
}
