// Writing parquet through Apache Arrow; see parquet_write.h. Nothing throws across the C boundary.
#include "engine/data/parquet_write.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/writer.h>
#include <parquet/exception.h>

#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

const char what[] = "cannot write parquet";

void check(const arrow::Status &s) {
    if (!s.ok()) throw parquet::ParquetException(s.ToString());
}

std::shared_ptr<arrow::DataType> type_of(const mull_cell &c) {
    arrow::FieldVector fields;
    switch (c.kind) {
    case MULL_CELL_BOOL:
        return arrow::boolean();
    case MULL_CELL_INT:
        return arrow::int64();
    case MULL_CELL_REAL:
        return arrow::float64();
    case MULL_CELL_TEXT:
        return arrow::utf8();
    case MULL_CELL_BYTES:
        return arrow::binary();
    case MULL_CELL_LIST:
        if (c.n) return arrow::list(type_of(c.items[0]));
        break;
    case MULL_CELL_STRUCT:
        for (size_t i = 0; i < c.n; i++) fields.push_back(arrow::field(c.items[i].name, type_of(c.items[i])));
        return arrow::struct_(fields);
    case MULL_CELL_NULL:
        break;
    }
    throw parquet::ParquetException("a column of the first row has no value");
}

void append(arrow::ArrayBuilder *b, const mull_cell &c) {
    using arrow::Type;
    Type::type t = b->type()->id();
    auto needs = [&](bool same) {
        if (!same) throw parquet::ParquetException("a row is not like the first one");
    };
    switch (c.kind) {
    case MULL_CELL_NULL:
        return check(b->AppendNull());
    case MULL_CELL_BOOL:
        needs(t == Type::BOOL);
        return check(static_cast<arrow::BooleanBuilder *>(b)->Append(c.i != 0));
    case MULL_CELL_INT:
        needs(t == Type::INT64);
        return check(static_cast<arrow::Int64Builder *>(b)->Append(c.i));
    case MULL_CELL_REAL:
        needs(t == Type::DOUBLE);
        return check(static_cast<arrow::DoubleBuilder *>(b)->Append(c.real));
    case MULL_CELL_TEXT:
    case MULL_CELL_BYTES:
        needs(t == (c.kind == MULL_CELL_TEXT ? Type::STRING : Type::BINARY) && c.len <= INT32_MAX);
        return check(static_cast<arrow::BinaryBuilder *>(b)->Append(c.data, static_cast<int32_t>(c.len)));
    case MULL_CELL_LIST:
        needs(t == Type::LIST);
        check(static_cast<arrow::ListBuilder *>(b)->Append());
        for (size_t i = 0; i < c.n; i++) append(static_cast<arrow::ListBuilder *>(b)->value_builder(), c.items[i]);
        return;
    case MULL_CELL_STRUCT:
        needs(t == Type::STRUCT && b->num_children() == static_cast<int>(c.n));
        check(static_cast<arrow::StructBuilder *>(b)->Append());
        for (size_t i = 0; i < c.n; i++)
            append(static_cast<arrow::StructBuilder *>(b)->field_builder(static_cast<int>(i)), c.items[i]);
        return;
    }
}

void write(const char *path, const mull_cell *rows, size_t n) {
    auto pool = arrow::system_memory_pool();
    std::unique_ptr<arrow::ArrayBuilder> b;
    if (!n) throw parquet::ParquetException("there are no rows");
    check(arrow::MakeBuilder(pool, type_of(rows[0]), &b));
    for (size_t i = 0; i < n; i++) append(b.get(), rows[i]);
    std::shared_ptr<arrow::Array> made;
    check(b->Finish(&made));
    const auto &top = static_cast<const arrow::StructArray &>(*made);
    auto table = arrow::Table::Make(arrow::schema(top.type()->fields()), top.fields());
    auto file = arrow::io::FileOutputStream::Open(path);
    check(file.status());
    auto how = parquet::WriterProperties::Builder().compression(parquet::Compression::ZSTD)->build();
    check(parquet::arrow::WriteTable(*table, pool, *file, 1024, how));
    check((*file)->Close());
}

int fail(mull_error *err, const char *path) {
    try {
        throw;
    } catch (const std::bad_alloc &) {
        return mull_fail(err, MULL_ENOMEM, what, path, "", "out of memory");
    } catch (const std::exception &e) {
        return mull_fail(err, MULL_EIO, what, path, "check the folder and its free space", "%.400s", e.what());
    } catch (...) {
        return mull_fail(err, MULL_EINTERNAL, what, path, "", "unknown exception");
    }
}

const int64_t GROUP_ROWS = 4096;

} // namespace

extern "C" int mull_parquet_write(const char *path, const mull_cell *rows, size_t n, mull_error *err) {
    try {
        write(path, rows, n);
        return MULL_OK;
    } catch (...) {
        return fail(err, path);
    }
}

struct mull_parquet_writer {
    std::string path;
    std::shared_ptr<arrow::io::FileOutputStream> file;
    std::unique_ptr<arrow::ArrayBuilder> rows;
    std::unique_ptr<parquet::arrow::FileWriter> writer;

    /* The rows that are held, as one row group: groups are the same however long it takes. */
    void flush() {
        std::shared_ptr<arrow::Array> made;
        if (!rows->length()) return;
        check(rows->Finish(&made));
        const auto &top = static_cast<const arrow::StructArray &>(*made);
        auto table = arrow::Table::Make(arrow::schema(top.type()->fields()), top.fields());
        check(writer->WriteTable(*table, GROUP_ROWS));
    }
};

extern "C" int mull_parquet_writer_open(const char *path, const mull_cell *like, mull_parquet_writer **out,
                                        mull_error *err) {
    *out = nullptr;
    try {
        auto pool = arrow::system_memory_pool();
        auto w = std::make_unique<mull_parquet_writer>();
        w->path = path;
        auto type = type_of(*like);
        check(arrow::MakeBuilder(pool, type, &w->rows));
        auto file = arrow::io::FileOutputStream::Open(path);
        check(file.status());
        w->file = *file;
        auto how = parquet::WriterProperties::Builder().compression(parquet::Compression::ZSTD)->build();
        auto writer = parquet::arrow::FileWriter::Open(*arrow::schema(type->fields()), pool, w->file, how);
        check(writer.status());
        w->writer = std::move(*writer);
        *out = w.release();
        return MULL_OK;
    } catch (...) {
        return fail(err, path);
    }
}

extern "C" int mull_parquet_writer_add(mull_parquet_writer *w, const mull_cell *row, mull_error *err) {
    try {
        append(w->rows.get(), *row);
        if (w->rows->length() >= GROUP_ROWS) w->flush();
        return MULL_OK;
    } catch (...) {
        return fail(err, w->path.c_str());
    }
}

extern "C" int mull_parquet_writer_close(mull_parquet_writer *w, bool finish, mull_error *err) {
    if (!w) return MULL_OK;
    std::unique_ptr<mull_parquet_writer> own(w);
    try {
        if (finish) w->flush();
        check(w->writer->Close());
        check(w->file->Close());
        return MULL_OK;
    } catch (...) {
        return finish ? fail(err, w->path.c_str()) : MULL_OK;
    }
}
