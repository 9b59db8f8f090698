use super::*;
use crate::domain::{Digest, Name};
use crate::registry::{NewVersion, RegistryError, VersionSelector};
use crate::store::{Database, DatabaseUrl, Store};
use crate::track::{Pair, Tracker};

/// Why versions are yanked that are above another one.
const WHY: &str = "rolled back at endpoint e";

/// A registry with the model `m`.
struct Place {
    _folder: tempfile::TempDir,
    registry: Registry,
}

impl Place {
    /// With versions that have bundles, counted from 1.
    async fn with_versions(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        let database = Database::open(&DatabaseUrl::default(), store.folder()).await.unwrap();
        let registry = Registry::new(Tracker::new(database, store));
        registry.create_model("m".to_owned(), String::new(), Vec::new()).await.unwrap();
        let place = Self { _folder: folder, registry };
        for _ in 0..count {
            place.add_with_bundle().await;
        }
        place
    }

    /// Adds a version as clients of MLflow do.
    async fn add(&self) -> i64 {
        let source = "mlflow-artifacts:/0/files".to_owned();
        let new = NewVersion { name: "m".to_owned(), source, ..NewVersion::default() };
        self.registry.create_version(new).await.unwrap().number
    }

    async fn add_with_bundle(&self) -> i64 {
        let number = self.add().await;
        let bundle = Digest::of(&number.to_le_bytes()).to_string();
        let write = self.registry.database().write(move |connection| {
            Box::pin(async move {
                let sql = "UPDATE model_versions SET bundle = $1 WHERE number = $2";
                sqlx::query(sql).bind(bundle.as_str()).bind(number).execute(connection).await?;
                Ok::<_, TrackError>(())
            })
        });
        write.await.unwrap();
        number
    }

    async fn tag(&self, number: i64, value: &str) {
        let tag = Pair { key: YANKED_TAG.to_owned(), value: value.to_owned() };
        self.registry.set_version_tag("m".to_owned(), &number.to_string(), tag).await.unwrap();
    }

    async fn find(&self, selector: VersionSelector) -> Result<i64, RegistryError> {
        let name: Name = "m".parse().unwrap();
        self.registry.find_version(&name, &selector).await.map(|version| version.number)
    }

    async fn newest(&self) -> i64 {
        self.find(VersionSelector::Newest).await.unwrap()
    }

    async fn make_newest(&self, expected: i64, number: i64) -> Result<bool, TrackError> {
        self.registry.make_newest("m".to_owned(), expected, number, WHY.to_owned()).await
    }

    /// The numbers of versions that are yanked, with the values of their tags, from the highest down.
    async fn yanked(&self) -> Vec<(i64, String)> {
        let versions = self.registry.versions_of("m").await.unwrap();
        let value = |version: &ModelVersion| {
            version.tags.iter().find(|tag| tag.key == YANKED_TAG).map(|tag| tag.value.clone())
        };
        let yanked = versions.iter().filter(|version| version.is_yanked());
        yanked.map(|version| (version.number, value(version).unwrap())).collect()
    }
}

#[tokio::test]
async fn the_newest_is_the_highest_that_is_not_yanked() {
    let place = Place::with_versions(3).await;
    assert_eq!(place.newest().await, 3);
    place.tag(3, "learned from wrong labels").await;
    place.tag(1, "true").await;
    assert_eq!(place.newest().await, 2);
    assert_eq!(place.find(VersionSelector::Number(3)).await.unwrap(), 3);
    place.registry.set_alias("m".to_owned(), "champion".to_owned(), "3").await.unwrap();
    assert_eq!(place.find(VersionSelector::Alias("champion".to_owned())).await.unwrap(), 3);
    // As MLflow's client for Python writes it, and what else programs call so.
    for not_yanked in ["false", "False", "FALSE"] {
        place.tag(3, "true").await;
        assert_eq!(place.newest().await, 2);
        place.tag(3, not_yanked).await;
        assert_eq!(place.newest().await, 3, "{not_yanked}");
        assert_eq!(place.yanked().await, [(1, "true".to_owned())], "{not_yanked}");
    }
    place.tag(3, "").await;
    assert_eq!(place.newest().await, 2);
    assert_eq!(place.add_with_bundle().await, 4);
    assert_eq!(place.newest().await, 4, "what is registered later is newer");
}

#[tokio::test]
async fn what_mlflow_calls_the_latest_is_the_highest() {
    let place = Place::with_versions(2).await;
    assert!(place.make_newest(2, 1).await.unwrap());
    let latest = place.registry.latest_versions("m", &[]).await.unwrap();
    assert_eq!(latest.iter().map(|version| version.number).collect::<Vec<_>>(), [2]);
    assert_eq!(place.registry.version_by_alias("m", "latest").await.unwrap().number, 2);
}

#[tokio::test]
async fn each_step_back_goes_one_further() {
    let place = Place::with_versions(2).await;
    // Which no endpoint could serve.
    assert_eq!(place.add().await, 3);
    assert_eq!(place.add_with_bundle().await, 4);
    assert_eq!(place.registry.newest_below("m", 4).await.unwrap(), Some(2));
    assert!(place.make_newest(4, 2).await.unwrap());
    assert_eq!(place.newest().await, 2);
    assert_eq!(place.registry.newest_below("m", 2).await.unwrap(), Some(1));
    assert!(place.make_newest(2, 1).await.unwrap());
    assert_eq!(place.newest().await, 1);
    assert_eq!(place.registry.newest_below("m", 1).await.unwrap(), None);
    let numbers: Vec<i64> = place.yanked().await.into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [4, 3, 2]);
}

#[tokio::test]
async fn any_version_that_is_not_yanked_can_be_made_the_newest() {
    let place = Place::with_versions(4).await;
    let why = "learned from wrong labels";
    place.tag(3, why).await;
    place.tag(2, "False").await;
    place.tag(1, "false").await;
    assert!(!place.make_newest(4, 3).await.unwrap(), "whoever said why takes the mark away");
    assert_eq!((place.newest().await, place.yanked().await), (4, vec![(3, why.to_owned())]));
    assert!(place.make_newest(4, 1).await.unwrap());
    let yanked = |number: i64, value: &str| (number, value.to_owned());
    let all = [yanked(4, WHY), yanked(3, why), yanked(2, WHY)];
    assert_eq!((place.newest().await, place.yanked().await), (1, all.to_vec()));
    assert!(!place.make_newest(1, 4).await.unwrap());
    assert_eq!((place.newest().await, place.yanked().await), (1, all.to_vec()));
    let none = place.make_newest(1, 9).await.unwrap_err();
    assert!(none.to_string().contains("version=9"), "{none}");
    let long = place.registry.make_newest("m".to_owned(), 1, 1, "x".repeat(100_001)).await.unwrap_err();
    assert!(long.to_string().contains("value"), "{long}");
    assert_eq!(place.newest().await, 1);
}

#[tokio::test]
async fn an_alias_goes_back_to_what_could_be_served() {
    let place = Place::with_versions(5).await;
    assert_eq!(place.add().await, 6);
    let before = || place.registry.version_before("m", "champion", 2);
    assert_eq!(before().await.unwrap(), None);
    for number in [1, 3, 4, 5, 6, 2] {
        let number = number.to_string();
        place.registry.set_alias("m".to_owned(), "champion".to_owned(), &number).await.unwrap();
    }
    // 6 has no bundle, 5 is there no more, and 4 is yanked.
    place.registry.delete_version("m".to_owned(), "5").await.unwrap();
    place.tag(4, "learned from wrong labels").await;
    place.tag(3, "False").await;
    assert_eq!(before().await.unwrap(), Some(3));
    place.tag(3, "true").await;
    assert_eq!(before().await.unwrap(), Some(1));
    place.registry.delete_version("m".to_owned(), "1").await.unwrap();
    assert_eq!(before().await.unwrap(), None);
}

#[tokio::test]
async fn of_two_that_step_back_at_once_the_second_decides_anew() {
    let place = Place::with_versions(3).await;
    let (first, second) = tokio::join!(place.make_newest(3, 2), place.make_newest(3, 1));
    assert_eq!([first.unwrap(), second.unwrap()].iter().filter(|done| **done).count(), 1);
    let newest = place.newest().await;
    assert!(!place.make_newest(3, newest).await.unwrap());
    // Nor does who has not seen a version that came meanwhile yank it.
    assert_eq!(place.add_with_bundle().await, 4);
    assert!(!place.make_newest(newest, 1).await.unwrap());
    assert_eq!(place.newest().await, 4);
}

#[tokio::test]
async fn where_all_are_yanked_it_is_told_what_to_do() {
    let place = Place::with_versions(2).await;
    for number in [1, 2] {
        place.tag(number, "true").await;
    }
    let error = place.find(VersionSelector::Newest).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "every version of model `m` is yanked: name one, such as `m@2`, or take the mark from one by `host model tag m@2 \
         host.yanked --delete`"
    );
    let unknown = place.find(VersionSelector::Number(9)).await.unwrap_err();
    assert_eq!(unknown.to_string(), "model `m` has no version 9: its highest is 2");
    place.registry.delete_version_tag("m".to_owned(), "1", YANKED_TAG.to_owned()).await.unwrap();
    assert_eq!(place.newest().await, 1);
    let unknown = place.find(VersionSelector::Number(9)).await.unwrap_err();
    assert_eq!(unknown.to_string(), "model `m` has no version 9: its highest is 2");
    place.tag(1, "true").await;
    assert!(!place.make_newest(2, 1).await.unwrap(), "none is the newest");
    place.registry.delete_version_tag("m".to_owned(), "1", YANKED_TAG.to_owned()).await.unwrap();
    assert_eq!(place.newest().await, 1);
}
