/** Where a model runs: cpu, cuda (the first GPU) or cuda:N. */
export const devicePattern = /^(?:cpu|cuda(?::\d{1,3})?)$/;
