use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::super::StoreError;

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Longest silence in an answer.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Longest request: a part of 8 MiB arrives in this at 70 kB/s.
const REQUEST_MAX: Duration = Duration::from_secs(120);

/// Time after which a request that failed is not sent again.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// A bucket, and the prefix in it below which everything is ours.
#[derive(Clone)]
pub struct Bucket {
    /// Objects whole.
    pub objects: Arc<dyn ObjectStore>,
    /// Objects in parts.
    pub parts: Arc<dyn MultipartStore>,
    /// The prefix.
    pub prefix: Path,
}

impl Bucket {
    fn of(store: impl ObjectStore + MultipartStore, prefix: Path) -> Self {
        let store = Arc::new(store);
        Self { objects: store.clone(), parts: store, prefix }
    }
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Bucket({}, {})", self.objects, self.prefix)
    }
}

/// Prepares to speak to the bucket of an `s3:`, `gs:` or `az:` URL, with endpoint and credentials from `variables` of
/// the names that the provider's own tools read. Nothing is sent yet.
pub fn connect(
    url: &Url,
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Bucket, StoreError> {
    let failed = |source| StoreError::remote("use", url.as_str(), source);
    // Two crates of the program could each bring a library of cryptography; this says which one is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig { max_retries: 6, retry_timeout: RETRY_MAX, ..RetryConfig::default() };
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_MAX)
        .with_read_timeout(SILENCE_MAX)
        .with_timeout(REQUEST_MAX);
    let prefix = Path::from_url_path(url.path()).map_err(|error| failed(error.into()))?;
    let variables: Vec<_> =
        variables.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let own = match url.scheme() {
        "s3" => "aws_",
        "gs" => "google_",
        _ => "azure_",
    };
    let variables = variables.filter(|(name, _)| name.starts_with(own));
    let mut options = with_variables(options, own, variables.clone());
    match url.scheme() {
        "s3" => {
            let mut builder = AmazonS3Builder::new().with_url(url.as_str());
            for (name, value) in variables {
                let Ok(key) = name.parse::<AmazonS3ConfigKey>() else { continue };
                // Whoever names an endpoint without TLS means it.
                let endpoint = matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint);
                if endpoint && value.starts_with("http://") {
                    options = options.with_allow_http(true);
                }
                builder = builder.with_config(key, value);
            }
            let store = builder.with_client_options(options).with_retry(retry).build().map_err(failed)?;
            Ok(Bucket::of(store, prefix))
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::new().with_url(url.as_str());
            for (name, value) in variables {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_client_options(options).with_retry(retry).build().map_err(failed)?;
            Ok(Bucket::of(store, prefix))
        }
        _ => {
            let mut builder = MicrosoftAzureBuilder::new().with_url(url.as_str());
            for (name, value) in variables {
                if let Ok(key) = name.parse() {
                    builder = builder.with_config(key, value);
                }
            }
            let store = builder.with_client_options(options).with_retry(retry).build().map_err(failed)?;
            Ok(Bucket::of(store, prefix))
        }
    }
}

/// Our limits of time, but for those that the user sets by variables such as `AWS_TIMEOUT` or `AWS_PROXY_URL`.
fn with_variables<'a>(
    options: ClientOptions,
    prefix: &str,
    variables: impl Iterator<Item = (&'a str, &'a str)>,
) -> ClientOptions {
    variables.fold(options, |options, (name, value)| {
        match name.strip_prefix(prefix).map(str::parse::<ClientConfigKey>) {
            Some(Ok(key)) => options.with_config(key, value),
            _ => options,
        }
    })
}
