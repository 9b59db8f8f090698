use std::path::Path;
use std::str::FromStr;

use super::Dialect;

/// Name of the file of SQLite in the state folder.
const FILE_NAME: &str = "host.db";

/// Where the database is.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum DatabaseUrl {
    /// A file of SQLite in the state folder.
    #[default]
    InStateFolder,
    /// PostgreSQL, as `postgres://user:password@machine/database`.
    Postgres(String),
}

/// Text that names no database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `postgres://user:password@machine:port/database`, found {found}")]
pub struct DatabaseUrlError {
    found: String,
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        // The rest of it may hold a password.
        let found = match text.split_once("://") {
            Some((scheme, _)) => format!("a URL of `{}`", scheme.chars().take(20).collect::<String>()),
            None => "no URL".to_owned(),
        };
        Err(DatabaseUrlError { found })
    }
}

/// Without user and password.
impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InStateFolder => formatter.write_str(FILE_NAME),
            Self::Postgres(url) => {
                let after_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
                let place = after_scheme.rsplit_once('@').map_or(after_scheme, |(_, place)| place);
                // Parameters can hold a password too.
                let place = place.split('?').next().unwrap_or_default();
                write!(formatter, "postgres://{place}")
            }
        }
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "DatabaseUrl({self})")
    }
}

impl DatabaseUrl {
    /// Where it is, for people; without user and password.
    pub fn place(&self, state_folder: &Path) -> String {
        match self {
            Self::InStateFolder => state_folder.join(FILE_NAME).display().to_string(),
            Self::Postgres(_) => self.to_string(),
        }
    }

    /// The address as the driver wants it.
    pub(super) fn connect_address(&self, state_folder: &Path) -> (String, Dialect) {
        match self {
            Self::InStateFolder => {
                let file = state_folder.join(FILE_NAME);
                let path = file.to_string_lossy();
                let encoded: String = path.bytes().map(encoded).collect();
                (format!("sqlite://{encoded}?mode=rwc"), Dialect::Sqlite)
            }
            Self::Postgres(url) => (url.clone(), Dialect::Postgres),
        }
    }
}

/// A byte of a path inside a URL.
fn encoded(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_postgres_only_and_hides_passwords() {
        let url: DatabaseUrl = "postgres://me:secret@localhost/db".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://localhost/db");
        assert_eq!(format!("{url:?}"), "DatabaseUrl(postgres://localhost/db)");
        let url: DatabaseUrl = "postgres://h:1/db?user=me&password=secret".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://h:1/db");
        let error = "mysql://me:secret@localhost/db".parse::<DatabaseUrl>().unwrap_err().to_string();
        assert_eq!(
            error,
            "expected `postgres://user:password@machine:port/database`, found a URL of `mysql`"
        );
        assert!("host.db".parse::<DatabaseUrl>().is_err());
    }

    #[test]
    fn encodes_what_a_url_would_read_otherwise() {
        let (address, dialect) = DatabaseUrl::InStateFolder.connect_address(Path::new("/tmp/a b?c#d%e"));
        assert_eq!(address, "sqlite:///tmp/a%20b%3Fc%23d%25e/host.db?mode=rwc");
        assert_eq!(dialect, Dialect::Sqlite);
    }
}
