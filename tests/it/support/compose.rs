//! Compose files as `docker-compose config` understands them, both Debian's first one and the second.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::directory::Directory;

/// All that `docker-compose config` prints.
pub struct Compose(pub Value);

/// One of its services.
pub struct Service<'a>(pub &'a Value);

impl Compose {
    /// A file of this repository.
    pub fn read(file: &str) -> Compose {
        Compose::understood(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
    }

    /// One that is elsewhere.
    pub fn parse(text: &str) -> Compose {
        let directory = Directory::new();
        fs::write(directory.join("compose.yaml"), text).unwrap();
        Compose::understood(&directory.join("compose.yaml"))
    }

    fn understood(file: &Path) -> Compose {
        const TO_JSON: &str = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
        let directory = Directory::new();
        let printed = directory.join("printed");
        let shown = run(Command::new("docker-compose")
            .arg("-f")
            .arg(file)
            .arg("config")
            .env_remove("COMPOSE_PROFILES")
            .env_remove("COMPOSE_PROJECT_NAME"));
        fs::write(&printed, shown).unwrap();
        let json = run(Command::new("python3").args(["-c", TO_JSON]).arg(&printed));
        Compose(serde_json::from_str(&json).unwrap())
    }

    #[track_caller]
    pub fn service(&self, name: &str) -> Service<'_> {
        let service = &self.0["services"][name];
        assert!(service.is_object(), "no service {name}: {:#}", self.0);
        Service(service)
    }

    /// The names of its services.
    pub fn services(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.0["services"].as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// What a volume is called outside.
    pub fn volume(&self, name: &str) -> &str {
        self.0["volumes"][name]["name"].as_str().unwrap_or_else(|| panic!("no volume {name}: {:#}", self.0))
    }
}

impl Service<'_> {
    #[track_caller]
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_else(|| panic!("no {field}: {:#}", self.0))
    }

    #[track_caller]
    pub fn list(&self, field: &str) -> Vec<String> {
        let list = self.0[field].as_array().unwrap_or_else(|| panic!("no {field}: {:#}", self.0));
        list.iter().map(|word| word.as_str().unwrap_or_else(|| panic!("{word}")).to_owned()).collect()
    }

    #[track_caller]
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = self.0["environment"].as_object().unwrap_or_else(|| panic!("{:#}", self.0));
        variables.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
    }

    /// `[ADDRESS:]OUTSIDE:INSIDE`, however it is written.
    pub fn ports(&self) -> Vec<String> {
        let ports = self.0["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        ports
            .iter()
            .map(|port| match port.as_str() {
                Some(text) => text.trim_end_matches("/tcp").to_owned(),
                None => {
                    assert_eq!(port["protocol"], "tcp");
                    let address = port["host_ip"].as_str().map_or(String::new(), |ip| format!("{ip}:"));
                    format!("{address}{}:{}", port["published"], port["target"]).replace('"', "")
                }
            })
            .collect()
    }

    /// `VOLUME:PATH`, however it is written.
    pub fn volumes(&self) -> Vec<String> {
        let volumes = self.0["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
        volumes
            .iter()
            .map(|volume| match volume.as_str() {
                Some(text) => text.trim_end_matches(":rw").to_owned(),
                None => format!("{}:{}", volume["source"], volume["target"]).replace('"', ""),
            })
            .collect()
    }

    /// The names of its secrets, each of which is a file of that name in /run/secrets.
    pub fn secrets(&self) -> Vec<&str> {
        let secrets = self.0["secrets"].as_array().map(Vec::as_slice).unwrap_or_default();
        secrets.iter().map(|secret| secret["source"].as_str().unwrap()).collect()
    }

    #[track_caller]
    pub fn health(&self, field: &str) -> &Value {
        &self.0["healthcheck"][field]
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?}: {error}: run scripts/install-tools.sh docker-compose yaml")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
