// How fast this machine can train the paper's students: the arithmetic of an SGD step in float32, and nothing else.
//
// One student a vector lane, weights in the first-level cache, threads over seeds and cells. It knows one network shape,
// batches in one order, no averages and no divergence: a roof for the engines, never an engine.
//
// Compiled by others.py, which defines N1 (features), N2 (hidden units), BATCH (samples in a step), and perhaps BYTES
// (a vector's; else the widest this CPU has).

#include <stdlib.h>
#include <string.h>

#if defined(BYTES)
#elif defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
enum { LANES = BYTES / 4, ROWS = BYTES == 64 ? 4 : 2, TILE = N2 % ROWS ? 1 : ROWS };

typedef float vec __attribute__((vector_size(BYTES)));
typedef int mask __attribute__((vector_size(BYTES)));

int lanes(void) { return LANES; }

// x P(x^2) / Q(x^2), a minimax fit on |x| < 9.02, where tanh has reached 1 in float32; good to 3 ulp.
static inline vec tanh_(vec x) {
  const vec top = (vec){} + 9.02f;
  mask above = x > top, below = x < -top;
  x = (vec)(((mask)x & ~above & ~below) | ((mask)top & above) | ((mask)-top & below));
  const vec s = x * x;
  const vec p = (((1.33190958e-8f * s + 2.05835089e-5f) * s + 3.49403672e-3f) * s + 0.133797199f) * s + 0.999999979f;
  const vec q = (((7.76203223e-7f * s + 3.28309602e-4f) * s + 2.58710819e-2f) * s + 0.467130352f) * s + 1.0f;
  return x * p / q;
}

// One step of LANES students of one seed: w [N2][N1], phi [BATCH][N1], y [BATCH], readout [N2].
static inline void step(vec *restrict w, const float *restrict phi, const float *y, const float *readout, vec rate) {
  vec error[BATCH], slope[N2][BATCH];
  for (int b = 0; b < BATCH; b++) error[b] = (vec){} - y[b];
  for (int i = 0; i < N2; i += TILE) {
    vec u[TILE][BATCH];
    memset(u, 0, sizeof u);
    for (int j = 0; j < N1; j++)
      for (int b = 0; b < BATCH; b++)
        for (int r = 0; r < TILE; r++) u[r][b] += w[(i + r) * N1 + j] * phi[b * N1 + j];
    for (int r = 0; r < TILE; r++)
      for (int b = 0; b < BATCH; b++) {
        const vec f = tanh_(u[r][b]);
        error[b] += readout[i + r] * f;
        slope[i + r][b] = readout[i + r] * (1.0f - f * f);
      }
  }
  for (int b = 0; b < BATCH; b++) error[b] *= rate;
  for (int i = 0; i < N2; i += TILE) {
    vec g[TILE][BATCH];
    for (int r = 0; r < TILE; r++)
      for (int b = 0; b < BATCH; b++) g[r][b] = slope[i + r][b] * error[b];
    for (int j = 0; j < N1; j++)
      for (int r = 0; r < TILE; r++) {
        vec v = w[(i + r) * N1 + j];
        for (int b = 0; b < BATCH; b++) v -= g[r][b] * phi[b * N1 + j];
        w[(i + r) * N1 + j] = v;
      }
  }
}

// w [seeds][blocks][N2][N1][LANES] in vectors' alignment, phi [seeds][batches][BATCH][N1], y [seeds][batches][BATCH],
// readout [seeds][N2], rate [blocks][LANES] (learning rate / BATCH). Batches are taken in their order, over and over.
void train(vec *w, const float *phi, const float *y, const float *readout, const vec *rate, int seeds, int blocks,
           int batches, long first, long steps) {
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (int seed = 0; seed < seeds; seed++)
    for (int block = 0; block < blocks; block++) {
      vec own[N2 * N1];
      vec *kept = w + ((size_t)seed * blocks + block) * N2 * N1;
      memcpy(own, kept, sizeof own);
      for (long t = first; t < first + steps; t++) {
        const size_t batch = (size_t)seed * batches + t % batches;
        step(own, phi + batch * BATCH * N1, y + batch * BATCH, readout + (size_t)seed * N2, rate[block]);
      }
      memcpy(kept, own, sizeof own);
    }
}

// Independent chains of fused multiply-adds on every core: the most floating-point operations it can do.
// Returns how many were done; `sink` (one float, 1) keeps the compiler from leaving them out.
double multiply_add(long rounds, float *sink) {
  enum { CHAINS = 12 };  // enough to fill two units of latency 4, few enough for 16 registers
  double done = 0;
#pragma omp parallel reduction(+ : done)
  {
    vec chain[CHAINS];
    const vec a = (vec){} + 0.999f, b = (vec){} + sink[0];
    for (int k = 0; k < CHAINS; k++) chain[k] = (vec){} + (float)k;
    for (long t = 0; t < rounds; t++)
      for (int k = 0; k < CHAINS; k++) chain[k] = chain[k] * a + b;
    vec sum = {};
    for (int k = 0; k < CHAINS; k++) sum += chain[k];
    if (sum[0] == 12345.0f) sink[0] = sum[1];
    done += 2.0 * rounds * CHAINS * LANES;
  }
  return done;
}
