//! The tests that `object_store` has for stores, on what we connect to.

use host::store::connect;
use host_tests::Bucket;
use object_store::integration;

fn tests_bucket(prefix: &str) -> host::store::Bucket {
    let bucket = Bucket::shared();
    let variables = bucket.environment().map(|(name, value)| (name.to_owned(), value));
    connect(&bucket.url(prefix).parse().unwrap(), variables).unwrap()
}

#[tokio::test]
async fn s3_does_what_a_store_must() {
    let bucket = tests_bucket("");
    let objects = &*bucket.objects;
    // Without `put_get_delete_list`: it lists from an offset, which SeaweedFS 4.48 does wrongly, and nothing
    // of ours does. Nor with copies of what is not there, for the same reasons.
    integration::stream_get(objects).await;
    integration::list_uses_directories_correctly(objects).await;
    integration::list_with_delimiter(objects).await;
    integration::rename_and_copy(objects).await;
    integration::multipart_race_condition(objects, true).await;
    integration::multipart_out_of_order(objects).await;
    integration::multipart(objects, &*bucket.parts).await;
    // Last: they leave objects behind.
    integration::get_opts(objects).await;
    integration::put_get_attributes(objects).await;
    integration::put_opts(objects, true).await;
}
