use axum::body::Bytes;
use axum::http::StatusCode;
use prost::Message;

use super::super::documents::Document;
use super::super::inference::{
    BatchSums, ContentEncoding, DurationSum, EXTENSIONS, InferenceSums, ModelState, StatisticsRecord,
};
use super::super::protocol::{
    ask, asked, config_of, control_of, index_of, metadata_of, statistics_of, statistics_of_all,
    statistics_of_endpoints,
};
use super::super::shared::{Asked, Shared};
use super::super::{ApiError, ControlChange, Endpoints, ErrorCode, inference};
use super::GrpcError;
use super::error::{shown, unimplemented};
use super::message::framed;
use super::messages::{
    DataType, InferBatchStatistics, InferStatistics, ModelConfig, ModelConfigRequest, ModelConfigResponse,
    ModelInput, ModelMetadataRequest, ModelMetadataResponse, ModelOutput, ModelReadyRequest,
    ModelReadyResponse, ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveResponse, ServerMetadataResponse,
    ServerReadyResponse, StatisticDuration, model_metadata_response, repository_index_response,
};

/// Bytes that a message may have which asks for a document or a change. In memory it may take some fifty times as much.
const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// Methods that Triton has and this server has not, by a word in their names.
const NOT_SUPPORTED: [(&str, &str); 3] =
    [("SharedMemory", "shared memory"), ("Trace", "tracing"), ("Log", "log settings")];

/// Answers a method that is about the server and its models, and not for inference; the answer is framed.
pub(super) async fn answer(shared: &Shared, method: &str, message: &[u8]) -> Result<Bytes, ApiError> {
    if message.len() > MESSAGE_MAX_BYTES {
        let found = message.len();
        let message = format!("the message is larger than the limit of {MESSAGE_MAX_BYTES} bytes: {found}");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::BodyTooLarge, message));
    }
    let framed = match method {
        "ServerLive" => framed(&ServerLiveResponse { live: true }),
        "ServerReady" => framed(&ServerReadyResponse { ready: shared.endpoints.not_ready().is_none() }),
        "ServerMetadata" => framed(&ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }),
        "ModelReady" => {
            let ModelReadyRequest { name, version } = decoded(message)?;
            let asked = asked_model(shared, &name, &version);
            let ready = asked.is_ok_and(|asked| asked.deployment.check_ready().is_ok());
            framed(&ModelReadyResponse { ready })
        }
        "ModelMetadata" => {
            let ModelMetadataRequest { name, version } = decoded(message)?;
            framed(&metadata(metadata_of(&asked_model(shared, &name, &version)?)))
        }
        "ModelConfig" => {
            let ModelConfigRequest { name, version } = decoded(message)?;
            let config = config(config_of(&asked_model(shared, &name, &version)?));
            framed(&ModelConfigResponse { config: Some(config) })
        }
        "ModelStatistics" => {
            let request: ModelStatisticsRequest = decoded(message)?;
            if request.name.is_empty() {
                let make = |endpoints: &Endpoints| framed_statistics(statistics_of_endpoints(endpoints));
                let identity = ContentEncoding::Identity;
                return Ok(shared.document(Document::StatisticsMessage, identity, make).await?.into_bytes());
            }
            framed_statistics(statistics(shared, &request)?)
        }
        "RepositoryIndex" => return index(shared, decoded(message)?).await,
        "RepositoryModelLoad" => {
            let control = control_of(shared)?;
            let request: RepositoryModelLoadRequest = decoded(message)?;
            no_repository(&request.repository_name)?;
            no_files(request.parameters.keys())?;
            ask(control, &request.model_name, ControlChange::Load).await?;
            framed(&RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            let control = control_of(shared)?;
            let request: RepositoryModelUnloadRequest = decoded(message)?;
            no_repository(&request.repository_name)?;
            ask(control, &request.model_name, ControlChange::Unload).await?;
            framed(&RepositoryModelUnloadResponse {})
        }
        other => Err(not_there(other)),
    };
    framed.map(Bytes::from)
}

async fn index(shared: &Shared, request: RepositoryIndexRequest) -> Result<Bytes, ApiError> {
    let RepositoryIndexRequest { repository_name, ready } = request;
    no_repository(&repository_name)?;
    let make = move |endpoints: &Endpoints| {
        let models = index_of(endpoints, ready).into_iter().map(entry).collect();
        framed(&RepositoryIndexResponse { models })
    };
    let index = Document::IndexMessage { only_ready: ready };
    Ok(shared.document(index, ContentEncoding::Identity, make).await?.into_bytes())
}

fn framed_statistics(records: Vec<StatisticsRecord>) -> Result<Vec<u8>, ApiError> {
    framed(&ModelStatisticsResponse { model_stats: records.into_iter().map(record).collect() })
}

fn not_there(method: &str) -> ApiError {
    match NOT_SUPPORTED.iter().find(|(word, _)| method.contains(word)) {
        Some((_, what)) => {
            unimplemented(format!("{what} is not supported: expected the protocol's own methods"))
        }
        None => unimplemented(format!("there is no method `{}`", shown(method))),
    }
}

fn decoded<M: Message + Default>(message: &[u8]) -> Result<M, GrpcError> {
    M::decode(message).map_err(|_| GrpcError::Malformed)
}

/// The version of a model that is asked for, or of its versions the one that would answer.
fn asked_model(shared: &Shared, model: &str, version: &str) -> Result<Asked, ApiError> {
    asked(shared, model, (!version.is_empty()).then_some(version), None)
}

fn metadata(document: inference::ModelMetadata) -> ModelMetadataResponse {
    let tensors = |tensors: Vec<inference::TensorMetadata>| {
        let tensor = |tensor: inference::TensorMetadata| model_metadata_response::TensorMetadata {
            name: tensor.name,
            datatype: tensor.datatype.to_owned(),
            shape: tensor.shape,
        };
        tensors.into_iter().map(tensor).collect()
    };
    ModelMetadataResponse {
        name: document.name,
        versions: document.versions,
        platform: document.platform,
        inputs: tensors(document.inputs),
        outputs: tensors(document.outputs),
    }
}

fn config(document: inference::ModelConfig) -> ModelConfig {
    let data_type = |name: &str| DataType::from_str_name(name).unwrap_or(DataType::TypeInvalid).into();
    let input = |tensor: inference::TensorConfig| ModelInput {
        name: tensor.name,
        data_type: data_type(tensor.data_type),
        dims: tensor.dims,
    };
    let output = |tensor: inference::TensorConfig| ModelOutput {
        name: tensor.name,
        data_type: data_type(tensor.data_type),
        dims: tensor.dims,
    };
    ModelConfig {
        name: document.name,
        platform: document.platform,
        max_batch_size: i32::try_from(document.max_batch_size).unwrap_or(i32::MAX),
        input: document.input.into_iter().map(input).collect(),
        output: document.output.into_iter().map(output).collect(),
        backend: document.backend,
    }
}

fn statistics(shared: &Shared, request: &ModelStatisticsRequest) -> Result<Vec<StatisticsRecord>, ApiError> {
    match (request.name.as_str(), request.version.as_str()) {
        (name, "") => Ok(statistics_of_all(&*shared.endpoint(name)?)),
        (name, version) => {
            let asked = asked_model(shared, name, version)?;
            Ok(vec![statistics_of(&asked.endpoint, &asked.deployment)])
        }
    }
}

fn record(record: StatisticsRecord) -> ModelStatistics {
    ModelStatistics {
        name: record.name,
        version: record.version,
        last_inference: record.last_inference,
        inference_count: record.inference_count,
        execution_count: record.execution_count,
        inference_stats: Some(sums(record.inference_stats)),
        batch_stats: record.batch_stats.into_iter().map(batch).collect(),
    }
}

fn sums(sums: InferenceSums) -> InferStatistics {
    InferStatistics {
        success: duration(sums.success),
        fail: duration(sums.fail),
        queue: duration(sums.queue),
        compute_input: duration(sums.compute_input),
        compute_infer: duration(sums.compute_infer),
        compute_output: duration(sums.compute_output),
        cache_hit: duration(sums.cache_hit),
        cache_miss: duration(sums.cache_miss),
    }
}

fn batch(sums: BatchSums) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: sums.batch_size,
        compute_input: duration(sums.compute_input),
        compute_infer: duration(sums.compute_infer),
        compute_output: duration(sums.compute_output),
    }
}

fn duration(sum: DurationSum) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: sum.count, ns: sum.ns })
}

fn entry(entry: inference::ModelIndexEntry) -> repository_index_response::ModelIndex {
    let state = match entry.state {
        ModelState::Ready => "READY",
        ModelState::Unavailable => "UNAVAILABLE",
    };
    repository_index_response::ModelIndex {
        name: entry.name,
        version: entry.version,
        state: state.to_owned(),
        reason: entry.reason,
    }
}

/// There is one repository, which has no name.
fn no_repository(name: &str) -> Result<(), ApiError> {
    match name {
        "" => Ok(()),
        name => {
            let message = format!("there is no repository `{}`: expected none to be named", shown(name));
            Err(ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message))
        }
    }
}

/// A model is served as the registry has it, with no other configuration or files.
fn no_files<'a>(mut parameters: impl Iterator<Item = &'a String>) -> Result<(), ApiError> {
    match parameters.find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => Err(unimplemented(format!(
            "parameter `{}` is not supported: expected a model of the registry, as it is there",
            shown(name)
        ))),
    }
}
