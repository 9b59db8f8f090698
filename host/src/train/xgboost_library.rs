//! The C functions of libxgboost behind a safe interface: all of the crate's `unsafe` for training is here.
//!
//! libxgboost (<https://xgboost.readthedocs.io/en/stable/c.html>) is opened when it is needed, so that a host that
//! only serves does not have to have it, and one build works with every version from 2.0.
//!
//! It starts an OpenMP pool whose idle threads spin by default, and reads how they wait when it is loaded: a program
//! that does other work too sets `OMP_WAIT_POLICY=PASSIVE` in its environment before [`Library::load`].

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr;

use super::{LibrarySearch, RoundMetric, RowSet, TrainError};

/// Name of the library where the system's own directories are searched.
const SYSTEM_NAME: &str = "libxgboost.so";

/// Its folder. There as in the wheel the library finds its OpenMP runtime at `../../xgboost_cpu.libs`.
const FOLDER: &str = "xgboost/lib";

type Status = c_int;
type Handle = *mut c_void;
/// `bst_ulong`.
type Length = u64;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Pointers into the library, valid as long as it is loaded: for ever.
        #[derive(Debug, Clone, Copy)]
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// # Safety
            ///
            /// `library` must never be unloaded, and if it has all these symbols, be libxgboost 2.0 or newer, whose
            /// header gives them these types.
            unsafe fn resolve(library: &libloading::Library) -> Result<Self, &'static str> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the caller vouches for the types and that the pointer stays valid.
                        let symbol = unsafe { library.get($symbol) };
                        *symbol.map_err(|_| $symbol)?
                    },)*
                })
            }
        }
    };
}

functions! {
    last_error = "XGBGetLastError": fn() -> *const c_char;
    version = "XGBoostVersion": fn(*mut c_int, *mut c_int, *mut c_int);
    set_global_config = "XGBSetGlobalConfig": fn(*const c_char) -> Status;
    matrix_from_dense = "XGDMatrixCreateFromDense": fn(*const c_char, *const c_char, *mut Handle) -> Status;
    matrix_set_info = "XGDMatrixSetInfoFromInterface": fn(Handle, *const c_char, *const c_char) -> Status;
    matrix_free = "XGDMatrixFree": fn(Handle) -> Status;
    booster_create = "XGBoosterCreate": fn(*const Handle, Length, *mut Handle) -> Status;
    booster_free = "XGBoosterFree": fn(Handle) -> Status;
    booster_set = "XGBoosterSetParam": fn(Handle, *const c_char, *const c_char) -> Status;
    booster_update = "XGBoosterUpdateOneIter": fn(Handle, c_int, Handle) -> Status;
    booster_eval = "XGBoosterEvalOneIter":
        fn(Handle, c_int, *const Handle, *const *const c_char, Length, *mut *const c_char) -> Status;
    booster_predict = "XGBoosterPredictFromDMatrix":
        fn(Handle, Handle, *const c_char, *mut *const Length, *mut Length, *mut *const f32) -> Status;
    booster_load = "XGBoosterLoadModelFromBuffer": fn(Handle, *const c_void, Length) -> Status;
    booster_rounds = "XGBoosterBoostedRounds": fn(Handle, *mut c_int) -> Status;
    booster_slice = "XGBoosterSlice": fn(Handle, c_int, c_int, c_int, *mut Handle) -> Status;
    booster_attribute = "XGBoosterGetAttr": fn(Handle, *const c_char, *mut *const c_char, *mut c_int) -> Status;
    booster_set_attribute = "XGBoosterSetAttr": fn(Handle, *const c_char, *const c_char) -> Status;
    booster_save = "XGBoosterSaveModelToBuffer":
        fn(Handle, *const c_char, *mut Length, *mut *const c_char) -> Status;
}

/// A loaded libxgboost. It is never unloaded, because the threads of its OpenMP pool outlive every call.
#[derive(Debug)]
pub struct Library {
    functions: Functions,
    path: String,
}

impl Library {
    /// Loads the first libxgboost that `search` finds. A file that is there but is not libxgboost is an error.
    pub fn load(search: &LibrarySearch) -> Result<Self, TrainError> {
        let files = search.files(FOLDER, SYSTEM_NAME);
        if let Some(file) = files.iter().find(|file| file.exists()) {
            return Self::open(file);
        }
        if search.explicit.is_none() {
            match Self::open(Path::new(SYSTEM_NAME)) {
                Err(TrainError::LibraryLoad { .. }) => {}
                found => return found,
            }
        }
        let system = search.explicit.is_none().then(|| "the system's libraries".to_owned());
        let looked = files.iter().map(|file| format!("`{}`", file.display())).chain(system).collect();
        Err(TrainError::LibraryNotFound { looked })
    }

    fn open(file: &Path) -> Result<Self, TrainError> {
        let path = file.display().to_string();
        // A name without a slash would be looked for in the system's folders instead of here; ours has none on purpose.
        let file = match file.exists() {
            true => std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf()),
            false => file.to_path_buf(),
        };
        // SAFETY: loading runs the initialisers of a library that the operator installed or named; trusting it is
        // the operator's decision, as it is for a program.
        let library = unsafe { libloading::Library::new(file) };
        let library = library.map_err(|source| TrainError::LibraryLoad { path: path.clone(), source })?;
        let library = ManuallyDrop::new(library);
        // SAFETY: it is never dropped, and these functions have had the same types since 2.0.
        let functions = unsafe { Functions::resolve(&library) };
        let functions =
            functions.map_err(|function| TrainError::NotXgboost { path: path.clone(), function })?;
        let library = Self { functions, path };
        if library.version().0 < 2 {
            let (major, minor, patch) = library.version();
            let version = format!("{major}.{minor}.{patch}");
            return Err(TrainError::LibraryVersion { path: library.path, version });
        }
        Ok(library)
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its version, such as `3.2.0`.
    pub fn version_text(&self) -> String {
        let (major, minor, patch) = self.version();
        format!("{major}.{minor}.{patch}")
    }

    /// Major, minor and patch.
    pub fn version(&self) -> (i32, i32, i32) {
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: all three point to integers that live through the call.
        unsafe { (self.functions.version)(&mut major, &mut minor, &mut patch) };
        (major, minor, patch)
    }

    /// Keeps the library from printing in this thread; what it has to say comes as an error.
    fn silence(&self) -> Result<(), TrainError> {
        // SAFETY: the text is NUL-terminated and lives through the call.
        self.check(unsafe { (self.functions.set_global_config)(c"{\"verbosity\":0}".as_ptr()) })
    }

    fn check(&self, status: Status) -> Result<(), TrainError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function takes nothing; it returns a NUL-terminated text of this thread, or null, that stays
        // until the next call fails, and it is copied before.
        let message = unsafe { (self.functions.last_error)().as_ref().map(|text| CStr::from_ptr(text)) };
        let message = message.map(CStr::to_string_lossy).unwrap_or_default();
        Err(TrainError::Xgboost { message: sentence(&message) })
    }
}

/// Rows that libxgboost has copied.
#[derive(Debug)]
pub struct DMatrix<'library> {
    library: &'library Library,
    handle: Handle,
    rows: usize,
}

// SAFETY: libxgboost's objects are not tied to a thread, only not to be used by two at once, and `DMatrix` is not
// `Sync`. A booster that uses a matrix owns it.
unsafe impl Send for DMatrix<'_> {}

impl<'library> DMatrix<'library> {
    /// Copies row-major rows of `columns` features, of which NaN is missing. `threads` of 0 means all cores.
    pub fn from_rows(
        library: &'library Library,
        values: &[f32],
        columns: usize,
        threads: u32,
    ) -> Result<Self, TrainError> {
        library.silence()?;
        let rows = values.len().checked_div(columns).unwrap_or_default();
        let values = values.get(..rows * columns).unwrap_or_default();
        let interface = array_interface(values, &[rows, columns])?;
        let config = c_string(&format!("{{\"missing\":NaN,\"nthread\":{threads}}}"))?;
        let mut handle = ptr::null_mut();
        let create = library.functions.matrix_from_dense;
        // SAFETY: both texts are NUL-terminated and live through the call; the interface names `values`, which does
        // too and is only read and copied; `handle` is written.
        library.check(unsafe { create(interface.as_ptr(), config.as_ptr(), &mut handle) })?;
        Ok(Self { library, handle, rows })
    }

    /// Sets the label of each row.
    pub fn set_label(&mut self, labels: &[f32]) -> Result<(), TrainError> {
        if labels.len() != self.rows {
            let found = format!("{} labels", labels.len());
            return Err(TrainError::Answer { expected: "as many labels as rows", found });
        }
        let interface = array_interface(labels, &[labels.len()])?;
        let set = self.library.functions.matrix_set_info;
        // SAFETY: the handle is live, both texts are NUL-terminated and live through the call, and so do the labels
        // that the interface names.
        self.library.check(unsafe { set(self.handle, c"label".as_ptr(), interface.as_ptr()) })
    }
}

impl Drop for DMatrix<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and is not used again. Freeing it cannot fail.
        unsafe { (self.library.functions.matrix_free)(self.handle) };
    }
}

/// A model in training. It owns the rows it learns from and is judged by, as it caches what it knows of them.
#[derive(Debug)]
pub struct Booster<'library> {
    library: &'library Library,
    handle: Handle,
    matrices: Vec<DMatrix<'library>>,
}

// SAFETY: as for `DMatrix`; the matrices that the booster refers to move with it.
unsafe impl Send for Booster<'_> {}

impl<'library> Booster<'library> {
    /// Starts a model with parameters as text, or goes on with the model of a file. It learns from the first of
    /// `matrices`.
    pub fn new<'a>(
        library: &'library Library,
        parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
        matrices: Vec<DMatrix<'library>>,
        start_from: Option<&[u8]>,
    ) -> Result<Self, TrainError> {
        library.silence()?;
        let handles: Vec<Handle> = matrices.iter().map(|matrix| matrix.handle).collect();
        let mut handle = ptr::null_mut();
        // SAFETY: `handles` are live and as many as the length says; `handle` is written.
        let status = unsafe {
            (library.functions.booster_create)(handles.as_ptr(), handles.len() as Length, &mut handle)
        };
        library.check(status)?;
        let booster = Self { library, handle, matrices };
        if let Some(file) = start_from {
            // SAFETY: the handle is live; the bytes are as many as the length says, live through the call and are only
            // read.
            let status = unsafe {
                (library.functions.booster_load)(handle, file.as_ptr().cast(), file.len() as Length)
            };
            library.check(status)?;
        }
        for (name, value) in parameters {
            let (name, value) = (c_string(name)?, c_string(value)?);
            // SAFETY: the handle is live and both texts are NUL-terminated and live through the call.
            let status = unsafe { (library.functions.booster_set)(handle, name.as_ptr(), value.as_ptr()) };
            library.check(status)?;
        }
        Ok(booster)
    }

    /// Rounds that the model has.
    pub fn rounds(&mut self) -> Result<u32, TrainError> {
        let mut rounds = 0;
        // SAFETY: the handle is live and `rounds` is written.
        self.library.check(unsafe { (self.library.functions.booster_rounds)(self.handle, &mut rounds) })?;
        u32::try_from(rounds)
            .map_err(|_| TrainError::Answer { expected: "a number of rounds", found: rounds.to_string() })
    }

    /// A model of the first `rounds` rounds alone, at least 1.
    pub fn first_rounds(&mut self, rounds: u32) -> Result<Self, TrainError> {
        let end = c_int::try_from(rounds.max(1)).unwrap_or(c_int::MAX);
        let mut handle = ptr::null_mut();
        // SAFETY: the handle is live and the other is written.
        let status = unsafe { (self.library.functions.booster_slice)(self.handle, 0, end, 1, &mut handle) };
        // Asked for more rounds than there are it answers −2 and sets no message.
        if status == -2 {
            return Err(TrainError::Answer { expected: "as many rounds", found: "fewer".to_owned() });
        }
        self.library.check(status)?;
        Ok(Self { library: self.library, handle, matrices: Vec::new() })
    }

    /// A note that is kept in the model file.
    pub fn attribute(&mut self, name: &str) -> Result<Option<String>, TrainError> {
        let name = c_string(name)?;
        let (mut value, mut found) = (ptr::null(), 0);
        let get = self.library.functions.booster_attribute;
        // SAFETY: the handle is live, the name is NUL-terminated and lives through the call, the others are written.
        self.library.check(unsafe { get(self.handle, name.as_ptr(), &mut value, &mut found) })?;
        // SAFETY: after success it is null or NUL-terminated, and stays until the next call on this booster.
        let value = unsafe { value.as_ref().map(|text| CStr::from_ptr(text)) };
        Ok(value.filter(|_| found == 1).map(|text| text.to_string_lossy().into_owned()))
    }

    /// Sets a note that is kept in the model file.
    pub fn set_attribute(&mut self, name: &str, value: &str) -> Result<(), TrainError> {
        let (name, value) = (c_string(name)?, c_string(value)?);
        let set = self.library.functions.booster_set_attribute;
        // SAFETY: the handle is live and both texts are NUL-terminated and live through the call.
        self.library.check(unsafe { set(self.handle, name.as_ptr(), value.as_ptr()) })
    }

    /// Runs round `iteration`, from 0, on the first matrix.
    pub fn update(&mut self, iteration: c_int) -> Result<(), TrainError> {
        let Some(train) = self.matrices.first() else {
            return Err(TrainError::Empty { rows: 0, features: 0 });
        };
        // SAFETY: both handles are live.
        self.library
            .check(unsafe { (self.library.functions.booster_update)(self.handle, iteration, train.handle) })
    }

    /// The metrics after round `iteration` on the matrices in their order, as many as there are `sets`.
    pub fn eval(&mut self, iteration: c_int, sets: &[RowSet]) -> Result<Vec<RoundMetric>, TrainError> {
        let names = sets.iter().map(|set| c_string(set.name())).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let handles: Vec<Handle> = self.matrices.iter().map(|matrix| matrix.handle).collect();
        let length = names.len().min(handles.len()) as Length;
        let mut text = ptr::null();
        // SAFETY: the handles are live; both lists have at least `length` entries and live through the call, as do
        // the names; `text` is written.
        self.library.check(unsafe {
            (self.library.functions.booster_eval)(
                self.handle,
                iteration,
                handles.as_ptr(),
                names.as_ptr(),
                length,
                &mut text,
            )
        })?;
        // SAFETY: after success it is NUL-terminated and stays until the next call on this booster, which needs
        // `&mut self`.
        let text = unsafe { text.as_ref().map(|text| CStr::from_ptr(text)) };
        parse_metrics(&text.map(CStr::to_string_lossy).unwrap_or_default())
    }

    /// The scores of rows, as many for each as the objective has outputs.
    pub fn predict(&mut self, rows: &DMatrix<'_>) -> Result<Vec<f32>, TrainError> {
        let config = c"{\"type\":0,\"training\":false,\"iteration_begin\":0,\"iteration_end\":0,\"strict_shape\":true}";
        let (mut shape, mut dimensions, mut scores) = (ptr::null(), 0, ptr::null());
        // SAFETY: both handles are live, the text is NUL-terminated, and the other three are written.
        self.library.check(unsafe {
            (self.library.functions.booster_predict)(
                self.handle,
                rows.handle,
                config.as_ptr(),
                &mut shape,
                &mut dimensions,
                &mut scores,
            )
        })?;
        // SAFETY: after success `shape` has `dimensions` entries, which stay until the next call on this booster.
        let shape = unsafe { slice(shape, dimensions) };
        let length = shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size));
        let length = length.ok_or(TrainError::Answer {
            expected: "a shape that can be addressed",
            found: format!("{shape:?}"),
        })?;
        // SAFETY: after success `scores` has as many entries as the shape says, which stay as the shape does.
        Ok(unsafe { slice(scores, length) }.to_vec())
    }

    /// The model file as UBJSON.
    pub fn save(&mut self) -> Result<Vec<u8>, TrainError> {
        let (mut length, mut bytes) = (0, ptr::null());
        // SAFETY: the handle is live, the text is NUL-terminated, and the other two are written.
        self.library.check(unsafe {
            (self.library.functions.booster_save)(
                self.handle,
                c"{\"format\":\"ubj\"}".as_ptr(),
                &mut length,
                &mut bytes,
            )
        })?;
        // SAFETY: after success `bytes` has `length` entries, which stay until the next call on this booster.
        Ok(unsafe { slice(bytes.cast::<u8>(), length) }.to_vec())
    }
}

impl Drop for Booster<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live and is not used again. Freeing it cannot fail.
        unsafe { (self.library.functions.booster_free)(self.handle) };
    }
}

/// # Safety
///
/// `values` must be null or point to `length` values that stay as long as the slice is used.
unsafe fn slice<'a, T>(values: *const T, length: Length) -> &'a [T] {
    match usize::try_from(length) {
        // SAFETY: the caller vouches for it.
        Ok(length) if !values.is_null() => unsafe { std::slice::from_raw_parts(values, length) },
        _ => &[],
    }
}

/// The array interface of NumPy, version 3, by which libxgboost is told of a buffer.
fn array_interface(values: &[f32], shape: &[usize]) -> Result<CString, TrainError> {
    let address = values.as_ptr() as usize;
    let mut text =
        format!("{{\"data\":[{address},true],\"strides\":null,\"typestr\":\"<f4\",\"version\":3,\"shape\":[");
    for (index, size) in shape.iter().enumerate() {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{}{size}", if index == 0 { "" } else { "," });
    }
    text.push_str("]}");
    c_string(&text)
}

fn c_string(text: &str) -> Result<CString, TrainError> {
    CString::new(text).map_err(|_| TrainError::ParameterValue {
        name: text.escape_debug().to_string(),
        value: text.escape_debug().to_string(),
        expected: "text without NUL".to_owned(),
    })
}

/// What libxgboost means: its message without time, source line and stack trace, on one line.
fn sentence(message: &str) -> String {
    let message = message.split("\nStack trace:").next().unwrap_or_default().trim();
    // `[13:55:01] /path/to/file.cc:123: message`
    let message = match message.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((_, rest)) => rest.split_once(": ").map_or(rest, |(_, message)| message),
        None => message,
    };
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reads `[0]⇥train-mlogloss:1.5⇥test-mlogloss:1.75`.
fn parse_metrics(text: &str) -> Result<Vec<RoundMetric>, TrainError> {
    let refuse = || TrainError::Answer {
        expected: "metrics as `set-name:value`",
        found: format!("`{}`", text.trim()),
    };
    let mut fields = text.trim().split('\t');
    fields.next();
    let metrics = fields.map(|field| {
        let (name, value) = field.rsplit_once(':')?;
        let (set, name) = name.split_once('-')?;
        let set = [RowSet::Train, RowSet::Test].into_iter().find(|known| known.name() == set)?;
        Some(RoundMetric { set, name: name.to_owned(), value: value.trim().parse().ok()? })
    });
    metrics.map(|metric| metric.ok_or_else(refuse)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_lose_time_place_and_stack() {
        assert_eq!(
            sentence(
                "[13:55:01] /workspace/src/objective/multiclass_obj.cu:42: label must be in [0, num_class).\n\
                 Stack trace:\n  [bt] (0) libxgboost.so"
            ),
            "label must be in [0, num_class)."
        );
        assert_eq!(sentence("plain:\n  text"), "plain: text");
        assert_eq!(sentence(""), "");
    }

    #[test]
    fn metrics_are_read_and_nonsense_is_refused() {
        let metrics = parse_metrics("[3]\ttrain-mlogloss:0.5\ttest-ndcg@2-:nan\n").unwrap();
        assert_eq!(metrics[0], RoundMetric { set: RowSet::Train, name: "mlogloss".to_owned(), value: 0.5 });
        assert_eq!((metrics[1].set, metrics[1].name.as_str()), (RowSet::Test, "ndcg@2-"));
        assert!(metrics[1].value.is_nan());
        assert_eq!(parse_metrics("[0]").unwrap(), []);
        for text in ["[0]\ttrain", "[0]\tother-x:1", "[0]\ttrain-x:one"] {
            assert!(parse_metrics(text).is_err(), "{text}");
        }
    }

    #[test]
    fn buffers_are_described_as_numpy_does() {
        let values = [1.0, 2.0];
        let interface = array_interface(&values, &[1, 2]).unwrap().into_string().unwrap();
        let interface: serde_json::Value = serde_json::from_str(&interface).unwrap();
        assert_eq!(interface["data"], serde_json::json!([values.as_ptr() as usize, true]));
        assert_eq!(interface["shape"], serde_json::json!([1, 2]));
    }

    #[test]
    fn a_missing_library_is_told_with_every_place_and_the_remedy() {
        let search = LibrarySearch { explicit: Some("/nowhere/libxgboost.so".into()), ..Default::default() };
        let error = Library::load(&search).unwrap_err().to_string();
        assert!(error.starts_with("libxgboost was not found in `/nowhere/libxgboost.so`\nhint: "), "{error}");
        assert!(error.contains("cargo xtask setup") && error.contains("HOST_XGBOOST_LIBRARY"), "{error}");
        let search = LibrarySearch {
            explicit: None,
            executable_directory: Some("/bin-of-host".into()),
            data_directory: Some("/data".into()),
        };
        let files: Vec<_> =
            search.files(FOLDER, SYSTEM_NAME).iter().map(|file| file.display().to_string()).collect();
        assert_eq!(
            files,
            [
                "/bin-of-host/lib/libxgboost.so",
                "/bin-of-host/lib/xgboost/lib/libxgboost.so",
                "/data/host/lib/xgboost/lib/libxgboost.so"
            ]
        );
    }

    #[test]
    fn files_that_are_not_libxgboost_are_errors() {
        let load = |file: &Path| {
            Library::load(&LibrarySearch { explicit: Some(file.to_owned()), ..Default::default() })
                .unwrap_err()
        };
        assert!(matches!(load(Path::new("/etc/hostname")), TrainError::LibraryLoad { .. }));
        assert!(matches!(load(Path::new("/")), TrainError::LibraryLoad { .. }));
        // A library that every program here has loaded already.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so")).unwrap();
        let error = load(Path::new(libc)).to_string();
        assert!(
            error.ends_with("is not libxgboost 2.0 or newer: it has no function `XGBGetLastError`"),
            "{error}"
        );
    }
}
