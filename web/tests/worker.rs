//! The worker's source and writer, in a real dedicated worker.
#![cfg(target_arch = "wasm32")]

use backchain::ReadAt;
use backchain_web::worker::files::current;
use backchain_web::worker::private::{forget_folder, scratch};
use backchain_web::worker::source::{self, FileSource};
use backchain_web::worker::write::{Strategy, Writer};
use js_sys::{Array, Uint8Array};
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};
use web_sys::{Blob, File};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

fn file(bytes: &[u8]) -> File {
    let parts = Array::of1(&Uint8Array::from(bytes));
    File::new_with_u8_array_sequence(&parts, "test.img").unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect()
}

#[wasm_bindgen_test]
fn a_source_reads_the_files_bytes_and_nothing_past_its_end() {
    let bytes = pattern(3 << 20);
    let source = source::open(file(&bytes)).unwrap();
    assert_eq!(source.len(), 3 << 20);
    for (offset, len) in [
        (0, 4),
        (1 << 20, 100),
        ((1 << 20) - 3, 7),
        ((3 << 20) - 5, 5),
        (10, 2 << 20),
    ] {
        let mut buf = vec![0; len];
        source.read_exact_at(offset, &mut buf).unwrap();
        let start = usize::try_from(offset).unwrap();
        assert_eq!(buf, bytes[start..start + len]);
    }
    assert!(source.read_exact_at((3 << 20) - 4, &mut [0; 5]).is_err());
    assert!(source.read_exact_at(u64::MAX, &mut [0; 5]).is_err());
}

#[wasm_bindgen_test]
fn zeros_count_as_holes_wherever_they_lie() {
    let mut bytes = vec![0; 9 << 20];
    bytes[5 << 20] = 1;
    bytes[(5 << 20) + (70 << 10)] = 1;
    *bytes.last_mut().unwrap() = 1;
    let source = FileSource::new(file(&bytes)).unwrap();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(range) = source.data_at(at).unwrap() {
        at = range.end;
        found.push(range);
    }
    let last = (9 << 20) - (64 << 10);
    assert_eq!(found, [5 << 20..(5 << 20) + (128 << 10), last..9 << 20]);
}

/// What a file holds once everything was written to it.
async fn written(name: &str, strategy: Strategy, old: &[u8]) -> (Writer, Vec<u8>) {
    let handle = scratch("tests", name).await.unwrap();
    let mut writer = Writer::open(handle.clone(), Strategy::SaveCopy)
        .await
        .unwrap();
    writer.bytes(0, old).await.unwrap();
    writer.finish().await.unwrap();
    writer.close().await.unwrap();
    (Writer::open(handle, strategy).await.unwrap(), old.to_vec())
}

async fn content(writer: Writer) -> Vec<u8> {
    let handle = writer.close().await.unwrap();
    let file = current(&handle).await.unwrap();
    let mut bytes = vec![0; usize::try_from(source::size_of(&file)).unwrap()];
    source::open(file)
        .unwrap()
        .read_exact_at(0, &mut bytes)
        .unwrap();
    bytes
}

#[wasm_bindgen_test]
async fn writes_arrive_in_place_and_the_later_one_wins() {
    let (mut writer, mut model) = written("a", Strategy::Private, &pattern(100_000)).await;
    let blob =
        Blob::new_with_u8_array_sequence(&Array::of1(&Uint8Array::from(&[9; 500][..]))).unwrap();
    writer.bytes(10, &[1; 20]).await.unwrap();
    writer.bytes(30, &[2; 20]).await.unwrap();
    writer.blob(50_000, &blob).await.unwrap();
    writer.bytes(20, &[3; 20]).await.unwrap();
    writer.zero(60_000, 1000).await.unwrap();
    writer.set_len(120_000).await.unwrap();
    writer.bytes(119_999, &[4]).await.unwrap();
    writer.finish().await.unwrap();

    model[10..30].fill(1);
    model[30..50].fill(2);
    model[50_000..50_500].fill(9);
    model[20..40].fill(3);
    model[60_000..61_000].fill(0);
    model.resize(120_000, 0);
    model[119_999] = 4;
    assert_eq!(content(writer).await, model);
    forget_folder("tests").await;
}

#[wasm_bindgen_test]
async fn a_file_started_from_nothing_has_zeros_where_nothing_was_written() {
    let (mut writer, _) = written("b", Strategy::SaveCopy, &pattern(1000)).await;
    writer.bytes(100, &[7; 100]).await.unwrap();
    writer.zero(150, 5000).await.unwrap();
    writer.set_len(8000).await.unwrap();
    writer.finish().await.unwrap();

    let mut model = vec![0; 8000];
    model[100..150].fill(7);
    assert_eq!(content(writer).await, model);
}

#[wasm_bindgen_test]
async fn an_aborted_writer_leaves_the_file_as_it_was() {
    let (mut writer, model) = written("c", Strategy::Private, &pattern(5000)).await;
    writer.bytes(0, &[1; 4000]).await.unwrap();
    writer.set_len(10).await.unwrap();
    writer.abort().await;
    let handle = scratch("tests", "c").await.unwrap();
    let file = current(&handle).await.unwrap();
    let mut bytes = vec![0; 5000];
    assert_eq!(source::size_of(&file), 5000);
    source::open(file)
        .unwrap()
        .read_exact_at(0, &mut bytes)
        .unwrap();
    assert_eq!(bytes, model);
}

#[wasm_bindgen_test]
async fn a_survey_finds_the_holes_that_reading_bit_by_bit_finds() {
    let mut bytes = vec![0; 21 << 20];
    for at in [0, 5 << 20, (13 << 20) - 1, 20 << 20] {
        bytes[at] = 1;
    }
    let holes = |source: &FileSource| {
        let mut found = Vec::new();
        while let Some(range) = source
            .data_at(found.last().map_or(0, |r: &std::ops::Range<u64>| r.end))
            .unwrap()
        {
            found.push(range);
        }
        found
    };
    let plain = FileSource::new(file(&bytes)).unwrap();
    let surveyed = FileSource::new(file(&bytes)).unwrap();
    surveyed.survey(&|_| true).await.unwrap();
    assert_eq!(holes(&surveyed), holes(&plain));
    assert_eq!(holes(&plain).len(), 4);
}
