// Parquet through Apache Arrow, behind parquet.h; the only C++ file that may include Arrow. Nothing throws across the
// C boundary: every entry catches. A file keeps one stream of small record batches over one row group: reading row i
// goes on from where the last read ended, or begins the row group again when i lies behind it, so that memory stays at
// a few rows and reading in order costs nothing extra.
#include "engine/data/parquet.h"
#include "engine/data/parquet_pool.h"

#include <arrow/api.h>
#include <arrow/io/file.h>
#include <parquet/arrow/reader.h>
#include <parquet/arrow/schema.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

const char what[] = "cannot read parquet";
const int64_t BATCH_ROWS = 4;            // decoded at a time
const int64_t STREAM_BYTES = 256 * 1024; // read ahead a column
const int DEPTH_MAX = 16;                // of nested lists and structs

// A row's memory: blocks with the address of the next one in front (mull_row_free walks them).
struct Arena {
    void *head = nullptr;
    void *take(size_t n) {
        size_t front = alignof(std::max_align_t);
        if (n > SIZE_MAX - front) throw std::bad_alloc();
        void *block = std::malloc(front + n);
        if (!block) throw std::bad_alloc();
        std::memcpy(block, &head, sizeof head);
        head = block;
        return static_cast<char *>(block) + front;
    }
    const char *text(const void *p, size_t n) {
        char *s = static_cast<char *>(take(n + 1));
        if (n) std::memcpy(s, p, n);
        s[n] = 0;
        return s;
    }
    mull_cell *cells(size_t n) {
        auto *c = static_cast<mull_cell *>(take(n * sizeof(mull_cell) + 1));
        std::memset(static_cast<void *>(c), 0, n * sizeof(mull_cell));
        return c;
    }
    void drop() {
        mull_row r = {};
        r.memory = head;
        mull_row_free(&r);
        head = nullptr;
    }
};

void check(const arrow::Status &s) {
    if (!s.ok()) throw parquet::ParquetException(s.ToString());
}

void set_bytes(Arena *a, mull_cell *c, mull_cell_kind kind, const void *p, size_t n) {
    c->kind = kind;
    c->data = a->text(p, n);
    c->len = n;
}

void convert(Arena *a, const arrow::Array &arr, int64_t i, mull_cell *c, int depth);

void convert_list(Arena *a, const arrow::Array &values, int64_t from, int64_t n, mull_cell *c, int depth) {
    if (from < 0 || n < 0 || from > values.length() - n) throw parquet::ParquetException("a list leaves its values");
    c->kind = MULL_CELL_LIST;
    c->n = static_cast<size_t>(n);
    c->items = a->cells(c->n);
    for (int64_t k = 0; k < n; k++) convert(a, values, from + k, &c->items[k], depth + 1);
}

template <class T> int64_t whole(const arrow::Array &arr, int64_t i) {
    return static_cast<int64_t>(static_cast<const T &>(arr).Value(i));
}
template <class T> void bytes(Arena *a, mull_cell *c, mull_cell_kind kind, const arrow::Array &arr, int64_t i) {
    auto v = static_cast<const T &>(arr).GetView(i);
    set_bytes(a, c, kind, v.data(), v.size());
}
template <class T> void list(Arena *a, mull_cell *c, const arrow::Array &arr, int64_t i, int depth) {
    const auto &l = static_cast<const T &>(arr);
    convert_list(a, *l.values(), l.value_offset(i), l.value_length(i), c, depth);
}

// arr[i] to c, whose name is set already.
void convert(Arena *a, const arrow::Array &arr, int64_t i, mull_cell *c, int depth) {
    if (depth > DEPTH_MAX) throw parquet::ParquetException("columns are nested too deeply");
    if (arr.IsNull(i)) return;
    using arrow::Type;
    switch (arr.type_id()) {
    case Type::NA:
        return;
    case Type::BOOL:
        c->kind = MULL_CELL_BOOL;
        c->i = static_cast<const arrow::BooleanArray &>(arr).Value(i);
        return;
    case Type::INT8:
        c->i = whole<arrow::Int8Array>(arr, i);
        break;
    case Type::INT16:
        c->i = whole<arrow::Int16Array>(arr, i);
        break;
    case Type::INT32:
        c->i = whole<arrow::Int32Array>(arr, i);
        break;
    case Type::INT64:
        c->i = whole<arrow::Int64Array>(arr, i);
        break;
    case Type::UINT8:
        c->i = whole<arrow::UInt8Array>(arr, i);
        break;
    case Type::UINT16:
        c->i = whole<arrow::UInt16Array>(arr, i);
        break;
    case Type::UINT32:
        c->i = whole<arrow::UInt32Array>(arr, i);
        break;
    case Type::UINT64:
        c->i = whole<arrow::UInt64Array>(arr, i);
        break;
    case Type::FLOAT:
        c->kind = MULL_CELL_REAL;
        c->real = static_cast<double>(static_cast<const arrow::FloatArray &>(arr).Value(i));
        return;
    case Type::DOUBLE:
        c->kind = MULL_CELL_REAL;
        c->real = static_cast<const arrow::DoubleArray &>(arr).Value(i);
        return;
    case Type::STRING:
        bytes<arrow::StringArray>(a, c, MULL_CELL_TEXT, arr, i);
        return;
    case Type::LARGE_STRING:
        bytes<arrow::LargeStringArray>(a, c, MULL_CELL_TEXT, arr, i);
        return;
    case Type::STRING_VIEW:
        bytes<arrow::StringViewArray>(a, c, MULL_CELL_TEXT, arr, i);
        return;
    case Type::BINARY:
        bytes<arrow::BinaryArray>(a, c, MULL_CELL_BYTES, arr, i);
        return;
    case Type::LARGE_BINARY:
        bytes<arrow::LargeBinaryArray>(a, c, MULL_CELL_BYTES, arr, i);
        return;
    case Type::BINARY_VIEW:
        bytes<arrow::BinaryViewArray>(a, c, MULL_CELL_BYTES, arr, i);
        return;
    case Type::FIXED_SIZE_BINARY:
        bytes<arrow::FixedSizeBinaryArray>(a, c, MULL_CELL_BYTES, arr, i);
        return;
    case Type::LIST:
        list<arrow::ListArray>(a, c, arr, i, depth);
        return;
    case Type::LARGE_LIST:
        list<arrow::LargeListArray>(a, c, arr, i, depth);
        return;
    case Type::FIXED_SIZE_LIST:
        list<arrow::FixedSizeListArray>(a, c, arr, i, depth);
        return;
    case Type::STRUCT: {
        const auto &s = static_cast<const arrow::StructArray &>(arr);
        c->kind = MULL_CELL_STRUCT;
        c->n = static_cast<size_t>(s.num_fields());
        c->items = a->cells(c->n);
        for (int f = 0; f < s.num_fields(); f++) {
            const std::string &name = s.struct_type()->field(f)->name();
            c->items[f].name = a->text(name.data(), name.size());
            convert(a, *s.field(f), i, &c->items[f], depth + 1);
        }
        return;
    }
    case Type::DICTIONARY: {
        const auto &d = static_cast<const arrow::DictionaryArray &>(arr);
        int64_t at = d.GetValueIndex(i);
        if (at < 0 || at >= d.dictionary()->length())
            throw parquet::ParquetException("a value is not in its dictionary");
        convert(a, *d.dictionary(), at, c, depth + 1);
        return;
    }
    case Type::EXTENSION:
        convert(a, *static_cast<const arrow::ExtensionArray &>(arr).storage(), i, c, depth + 1);
        return;
    default: { // dates, decimals, maps: as Arrow prints them
        auto scalar = arr.GetScalar(i);
        check(scalar.status());
        std::string s = (*scalar)->ToString();
        set_bytes(a, c, MULL_CELL_TEXT, s.data(), s.size());
        return;
    }
    }
    c->kind = MULL_CELL_INT;
}

} // namespace

struct mull_parquet {
    std::string path;
    std::unique_ptr<parquet::arrow::FileReader> reader;
    std::vector<std::string> names; // of the file's columns
    std::vector<int> leaves;        // of the columns asked for
    std::vector<int64_t> starts;    // first row of each row group, and the number of rows
    std::unique_ptr<arrow::RecordBatchReader> stream;
    std::shared_ptr<arrow::RecordBatch> batch;
    int64_t first = 0, next = 0; // rows [first, next) are in batch; next is where the stream goes on
    int64_t end = 0;             // of the stream's row group
};

namespace {

// Runs f, turning whatever it throws into an error.
template <class F> int guarded(const char *path, mull_error *err, F f) {
    try {
        return f();
    } catch (const std::bad_alloc &) {
        return mull_fail(err, MULL_ENOMEM, what, path, "make the rows of the file smaller", "out of memory");
    } catch (const std::exception &e) {
        std::string why = e.what();
        for (char &ch : why)
            if (ch == '\n') ch = ' ';
        if (why.size() > 400) why.resize(400);
        return mull_fail(err, MULL_EFORMAT, what, path, "fetch or write the file again", "%s", why.c_str());
    } catch (...) {
        return mull_fail(err, MULL_EINTERNAL, what, path, "", "unknown exception");
    }
}

void collect_leaves(const parquet::arrow::SchemaField &f, std::vector<int> *out) {
    if (f.is_leaf()) out->push_back(f.column_index);
    for (const auto &child : f.children) collect_leaves(child, out);
}

void start_stream(mull_parquet *p, int64_t row) {
    size_t g = 0;
    while (p->starts[g + 1] <= row) g++;
    p->stream.reset();
    p->batch.reset();
    std::vector<int> groups{static_cast<int>(g)};
    auto r = p->reader->GetRecordBatchReader(groups, p->leaves);
    check(r.status());
    p->stream = std::move(*r);
    p->first = p->next = p->starts[g];
    p->end = p->starts[g + 1];
}

} // namespace

extern "C" bool mull_parquet_available(void) {
    return true;
}

extern "C" int mull_parquet_open(const char *path, const char *const *columns, size_t ncolumns, mull_parquet **out,
                                 mull_error *err) {
    *out = nullptr;
    return guarded(path, err, [&]() -> int {
        auto file = arrow::io::ReadableFile::Open(path, mull::BoundedPool::get());
        if (!file.ok())
            return mull_fail(err, MULL_EMISSING, what, path, "check the path and its permissions", "%s",
                             file.status().message().c_str());
        parquet::ReaderProperties props(mull::BoundedPool::get());
        props.enable_buffered_stream();
        props.set_buffer_size(STREAM_BYTES);
        parquet::ArrowReaderProperties how(/*use_threads=*/false);
        how.set_batch_size(BATCH_ROWS);
        how.set_pre_buffer(false);
        std::unique_ptr<mull_parquet> p(new mull_parquet);
        p->path = path;
        parquet::arrow::FileReaderBuilder builder;
        check(builder.Open(*file, props));
        check(builder.memory_pool(mull::BoundedPool::get())->properties(how)->Build(&p->reader));
        for (const auto &f : p->reader->manifest().schema_fields) {
            p->names.push_back(f.field->name());
            bool wanted = !columns;
            for (size_t i = 0; columns && i < ncolumns; i++) wanted |= f.field->name() == columns[i];
            if (wanted) collect_leaves(f, &p->leaves);
        }
        auto meta = p->reader->parquet_reader()->metadata();
        p->starts.push_back(0);
        for (int g = 0; g < meta->num_row_groups(); g++) {
            int64_t n = meta->RowGroup(g)->num_rows();
            if (n < 0 || n > INT64_MAX / 2 - p->starts.back())
                throw parquet::ParquetException("a row group's size is wrong");
            p->starts.push_back(p->starts.back() + n);
        }
        if (p->starts.back() != meta->num_rows()) throw parquet::ParquetException("row groups and rows do not add up");
        *out = p.release();
        return MULL_OK;
    });
}

extern "C" void mull_parquet_close(mull_parquet *p) {
    delete p;
}
extern "C" int64_t mull_parquet_rows(const mull_parquet *p) {
    return p->starts.back();
}
extern "C" int mull_parquet_columns(const mull_parquet *p) {
    return static_cast<int>(p->names.size());
}
extern "C" const char *mull_parquet_column_name(const mull_parquet *p, int i) {
    return p->names[static_cast<size_t>(i)].c_str();
}

extern "C" int mull_parquet_read(mull_parquet *p, int64_t i, mull_row *out, mull_error *err) {
    *out = mull_row{};
    if (i < 0 || i >= mull_parquet_rows(p))
        return mull_fail(err, MULL_EARG, what, p->path.c_str(), "", "there is no row %lld", static_cast<long long>(i));
    Arena a;
    int rc = guarded(p->path.c_str(), err, [&]() -> int {
        if (!p->stream || i < p->first || i >= p->end) start_stream(p, i);
        while (i >= p->next) {
            std::shared_ptr<arrow::RecordBatch> b;
            check(p->stream->ReadNext(&b));
            if (!b || !b->num_rows()) throw parquet::ParquetException("a row group ends before its last row");
            check(b->Validate());
            p->batch = b;
            p->first = p->next;
            p->next += b->num_rows();
        }
        const arrow::RecordBatch &b = *p->batch;
        out->top.kind = MULL_CELL_STRUCT;
        out->top.n = static_cast<size_t>(b.num_columns());
        out->top.items = a.cells(out->top.n);
        for (int c = 0; c < b.num_columns(); c++) {
            const std::string &name = b.schema()->field(c)->name();
            out->top.items[c].name = a.text(name.data(), name.size());
            convert(&a, *b.column(c), i - p->first, &out->top.items[c], 0);
        }
        return MULL_OK;
    });
    if (rc) {
        // What a failed read left of the stream is not worth keeping.
        p->stream.reset();
        p->batch.reset();
        p->first = p->next = p->end = 0;
        a.drop();
        *out = mull_row{};
    } else {
        out->memory = a.head;
    }
    return rc;
}
