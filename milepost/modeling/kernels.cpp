// What a decode step does between its products, each in one pass: `kernels.py` says why, and has it compiled.
//
// Numbers come and go as bf16 and are computed in fp32. Each row, or each head of a row, is computed by one thread, in
// an order that depends on nothing but that row: so its bits are the same in any company and on any number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using bf16 = uint16_t;

static inline float wide(bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

static inline bf16 narrow(float x) {  // to the nearest, of two equally near to the even one
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x to some 4e-6 of itself: a polynomial for the fraction of x / ln 2, the rest goes into the exponent.
static inline float exponential(float x) {
  x *= 1.44269504f;
  x = x < -126.f ? -126.f : x;  // so written, what is not a number stays so
  x = x > 126.f ? 126.f : x;
  float whole = std::nearbyint(x), part = x - whole;
  float y = 1.f + part * (0.693147181f + part * (0.240226507f + part * (0.0555041087f + part * (0.00961812911f +
            part * 0.00133335581f))));
  int32_t bits;
  std::memcpy(&bits, &y, 4);
  bits += int32_t(whole) * (1 << 23);
  std::memcpy(&y, &bits, 4);
  return y;
}

static inline float dot(const bf16* x, const bf16* y, int count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int i = 0; i < count; i++) sum += wide(x[i]) * wide(y[i]);
  return sum;
}

// Rotate the halves of a head by its position's angle: cos and sin are of the first half.
template <int SIZE>
static inline void rotate(const bf16* x, const float* cos, const float* sin, float* out) {
#pragma omp simd
  for (int i = 0; i < SIZE / 2; i++) {
    float first = wide(x[i]), second = wide(x[i + SIZE / 2]);
    out[i] = first * cos[i] - second * sin[i];
    out[i + SIZE / 2] = second * cos[i] + first * sin[i];
  }
}

// Some query heads that share a key head, over the positions 0 … last: scores, their softmax, the values' sum by it.
// q and out are (QUERIES, SIZE), scores has room for (QUERIES, last + 1).
template <int SIZE, int QUERIES>
static void attend_heads(const float* q, const bf16* keys, const bf16* values, int64_t last, float* scores, bf16* out) {
  int64_t count = last + 1;
  for (int64_t at = 0; at < count; at++) {
    float key[SIZE];
    for (int i = 0; i < SIZE; i++) key[i] = wide(keys[at * SIZE + i]);
    for (int query = 0; query < QUERIES; query++) {
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int i = 0; i < SIZE; i++) sum += q[query * SIZE + i] * key[i];
      scores[query * count + at] = sum;
    }
  }
  float totals[QUERIES] = {}, sums[QUERIES][SIZE] = {};
  for (int query = 0; query < QUERIES; query++) {
    float *own = scores + query * count, most = -INFINITY, total = 0;
    for (int64_t at = 0; at < count; at++) most = own[at] > most ? own[at] : most;
#pragma omp simd reduction(+ : total)
    for (int64_t at = 0; at < count; at++) {
      own[at] = exponential(own[at] - most);
      total += own[at];
    }
    totals[query] = total;
  }
  for (int64_t at = 0; at < count; at++) {
#pragma omp simd
    for (int i = 0; i < SIZE; i++) {
      float value = wide(values[at * SIZE + i]);
      for (int query = 0; query < QUERIES; query++) sums[query][i] += scores[query * count + at] * value;
    }
  }
  for (int query = 0; query < QUERIES; query++)
    for (int i = 0; i < SIZE; i++) out[query * SIZE + i] = narrow(sums[query][i] / totals[query]);
}

template <int SIZE>
static void attend(const bf16* qkv, const float* cos, const float* sin, const int64_t* positions, bf16* keys,
                   bf16* values, bf16* out, int rows, int heads, int kv_heads, int64_t context) {
  int group = heads / kv_heads;
  float scale = 1.f / std::sqrt(float(SIZE));
#pragma omp parallel for schedule(dynamic) if (rows > 4 || positions[0] > 256)
  for (int task = 0; task < rows * kv_heads; task++) {
    int row = task / kv_heads, head = task % kv_heads;
    int64_t position = positions[row];
    const bf16* given = qkv + int64_t(row) * (heads + 2 * kv_heads) * SIZE;
    const float *turn_cos = cos + row * (SIZE / 2), *turn_sin = sin + row * (SIZE / 2);
    bf16 *own_keys = keys + task * context * SIZE, *own_values = values + task * context * SIZE;
    float turned[4 * SIZE];
    rotate<SIZE>(given + (heads + head) * SIZE, turn_cos, turn_sin, turned);
    for (int i = 0; i < SIZE; i++) own_keys[position * SIZE + i] = narrow(turned[i]);
    std::memcpy(own_values + position * SIZE, given + (heads + kv_heads + head) * SIZE, SIZE * sizeof(bf16));
    thread_local std::vector<float> scores;
    scores.resize(4 * (position + 1));
    for (int done = 0, some; done < group; done += some) {
      some = group - done < 4 ? group - done : 4;
      int first = head * group + done;
      for (int query = 0; query < some; query++)
        rotate<SIZE>(given + (first + query) * SIZE, turn_cos, turn_sin, turned + query * SIZE);
      for (int i = 0; i < some * SIZE; i++) turned[i] = wide(narrow(turned[i])) * scale;
      auto chosen = some == 1 ? attend_heads<SIZE, 1> : some == 2 ? attend_heads<SIZE, 2>
                  : some == 3 ? attend_heads<SIZE, 3> : attend_heads<SIZE, 4>;
      chosen(turned, own_keys, own_values, position, scores.data(), out + (int64_t(row) * heads + first) * SIZE);
    }
  }
}

extern "C" {

// x += y, and out = its root mean square norm times weight. Without y only the norm. (rows, width) each.
void add_norm(bf16* x, const bf16* y, const bf16* weight, bf16* out, int rows, int width, float eps) {
  for (int row = 0; row < rows; row++, x += width, out += width) {
    if (y) {
#pragma omp simd
      for (int i = 0; i < width; i++) x[i] = narrow(wide(x[i]) + wide(y[i]));
      y += width;
    }
    float scale = 1.f / std::sqrt(dot(x, x, width) / width + eps);
#pragma omp simd
    for (int i = 0; i < width; i++) out[i] = narrow(wide(narrow(wide(x[i]) * scale)) * wide(weight[i]));
  }
}

// out (rows, width) = silu(gate) · up of gate_up (rows, 2 · width).
void silu_product(const bf16* gate_up, bf16* out, int rows, int width) {
#pragma omp parallel for if (rows > 4)
  for (int row = 0; row < rows; row++) {
    const bf16 *gate = gate_up + int64_t(row) * 2 * width, *up = gate + width;
    bf16* told = out + int64_t(row) * width;
#pragma omp simd
    for (int i = 0; i < width; i++) {
      float x = wide(gate[i]);
      told[i] = narrow(x / (1.f + exponential(-x)) * wide(up[i]));
    }
  }
}

// Keep each row's new key and value at its position, and attend to all up to there. Returns 0 for a head of a size
// that it was not compiled for. qkv (rows, heads + 2 · kv_heads, size), keys and values (rows, kv_heads, context, size).
int attend(int size, const bf16* qkv, const float* cos, const float* sin, const int64_t* positions, bf16* keys,
           bf16* values, bf16* out, int rows, int heads, int kv_heads, int64_t context) {
  auto chosen = size == 16 ? attend<16> : size == 32 ? attend<32> : size == 64 ? attend<64>
              : size == 128 ? attend<128> : nullptr;
  if (!chosen) return 0;
  chosen(qkv, cos, sin, positions, keys, values, out, rows, heads, kv_heads, context);
  return 1;
}

// What each row's own adapter adds to a product: out (rows, outputs) = (x · aᵀ) · b, or zeros for the slot -1.
// a (slots, columns, inputs), b (slots, columns, outputs). Of a slot's columns the first rank are for the first
// part of the outputs, which ends at ends[0], the next for the next: what lies beside in b is zero and not read.
void lora(const bf16* x, const bf16* a, const bf16* b, const int64_t* slots, const int64_t* ranks, const int64_t* ends,
          bf16* out, int rows, int parts, int inputs, int columns, int outputs) {
#pragma omp parallel for schedule(dynamic) if (rows > 4)
  for (int row = 0; row < rows; row++) {
    bf16* told = out + int64_t(row) * outputs;
    int64_t slot = slots[row];
    if (slot < 0) {
      std::memset(told, 0, outputs * sizeof(bf16));
      continue;
    }
    const bf16 *own_a = a + slot * columns * inputs, *own_b = b + slot * columns * outputs;
    int rank = int(ranks[slot]);
    thread_local std::vector<float> low;
    low.resize(columns);
    for (int i = 0; i < parts * rank; i++)
      low[i] = wide(narrow(dot(own_a + int64_t(i) * inputs, x + int64_t(row) * inputs, inputs)));
    for (int part = 0, start = 0; part < parts; start = int(ends[part++])) {
      for (int tile = start; tile < ends[part]; tile += 64) {
        float sums[64] = {};
        int count = ends[part] - tile < 64 ? int(ends[part] - tile) : 64;
        for (int i = part * rank; i < (part + 1) * rank; i++) {
          const bf16* line = own_b + int64_t(i) * outputs + tile;
          if (count == 64) {
#pragma omp simd
            for (int j = 0; j < 64; j++) sums[j] += low[i] * wide(line[j]);
          } else {
            for (int j = 0; j < count; j++) sums[j] += low[i] * wide(line[j]);
          }
        }
        for (int j = 0; j < count; j++) told[tile + j] = narrow(sums[j]);
      }
    }
  }
}
}
