// Memory for Arrow with a limit to what one allocation may ask for; C++, for parquet.cc alone. A damaged file states
// sizes at will, and Arrow asks for what they say before it finds that the bytes are not there: 30 GB for a file of
// 3 KB was seen. A page and an array are at most 2 GiB each and grow by doubling, so no good file needs more than 4 GiB
// in one piece.
#ifndef MULL_ENGINE_DATA_PARQUET_POOL_H
#define MULL_ENGINE_DATA_PARQUET_POOL_H

#include <arrow/memory_pool.h>
#include <arrow/status.h>

#include <string>

namespace mull {

class BoundedPool : public arrow::MemoryPool {
  public:
    static constexpr int64_t PIECE_MAX = int64_t(4) << 30;

    arrow::Status Allocate(int64_t size, int64_t alignment, uint8_t **out) override {
        return size > PIECE_MAX ? refuse(size) : system_->Allocate(size, alignment, out);
    }
    arrow::Status Reallocate(int64_t old_size, int64_t new_size, int64_t alignment, uint8_t **ptr) override {
        return new_size > PIECE_MAX ? refuse(new_size) : system_->Reallocate(old_size, new_size, alignment, ptr);
    }
    void Free(uint8_t *buffer, int64_t size, int64_t alignment) override { system_->Free(buffer, size, alignment); }
    int64_t bytes_allocated() const override { return system_->bytes_allocated(); }
    int64_t max_memory() const override { return system_->max_memory(); }
    int64_t total_bytes_allocated() const override { return system_->total_bytes_allocated(); }
    int64_t num_allocations() const override { return system_->num_allocations(); }
    std::string backend_name() const override { return system_->backend_name(); }
    // For the whole process: what Arrow hands out may outlive the file it came from.
    static arrow::MemoryPool *get() {
        static BoundedPool pool;
        return &pool;
    }

  private:
    static arrow::Status refuse(int64_t size) {
        return arrow::Status::Invalid("a size in it is wrong: ", size, " bytes in one piece");
    }
    arrow::MemoryPool *system_ = arrow::system_memory_pool();
};

} // namespace mull

#endif
