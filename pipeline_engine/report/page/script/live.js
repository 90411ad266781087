// Known before the body is read: what stands for the waterfall without a script is then never laid out.
if (typeof DecompressionStream !== 'undefined') document.documentElement.classList.add('is-live');
