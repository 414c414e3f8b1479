/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What published releases need to run but do not have in their files (sae.md B.3): the facts of
 * SAELens' registry (sae_lens/pretrained_saes.yaml, norm_scaling_factor and config_overrides), by
 * the repository and folder names of the path.
 */
#include <string.h>

#include "sae/parts.h"

static const struct {
    const char *repository; /* or the release name of SAELens */
    bool center_input, constant_norm;
} releases[] = {
    { "GPT2-Small-SAEs-Reformatted", true, false },
    { "GPT2-Small-Feature-Splitting-Experiment-Layer-8", true, false },
    { "gpt2-small-res-jb", true, false }, /* -feature-splitting too */
    { "gpt2-small-mlp-out-saes", true, false },
    { "gpt2-small-mlp-tm", true, false },
    { "Mistral-7B-Residual-Stream-SAEs", false, true },
    { "mistral-7b-res-wg", false, true },
};

/* Folders are compared as a whole: their names are unique to the release. */
static const struct {
    const char *folder;
    double scale;
} scales[] = {
    { "sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1", 1.049317316132615 },
    { "sae_group_gpt2_blocks.1.hook_mlp_out_24576:v0", 2.3693984005104283 },
    { "sae_group_gpt2_blocks.2.hook_mlp_out_24576:v0", 1.6411934982190302 },
    { "sae_group_gpt2_blocks.3.hook_mlp_out_24576:v0", 1.8958522157897557 },
    { "sae_group_gpt2_blocks.4.hook_mlp_out_24576:v0", 1.81673478700627 },
    { "sae_group_gpt2_blocks.5.hook_mlp_out_24576:v0", 1.550234472245924 },
    { "sae_group_gpt2_blocks.6.hook_mlp_out_24576:v0", 1.3237742807210804 },
    { "sae_group_gpt2_blocks.7.hook_mlp_out_24576:v0", 1.1042905114723296 },
    { "sae_group_gpt2_blocks.8.hook_mlp_out_24576:v1", 0.9123762783479742 },
    { "sae_group_gpt2_blocks.9.hook_mlp_out_24576:v0", 0.6955335635232373 },
    { "sae_group_gpt2_blocks.10.hook_mlp_out_24576:v0", 0.3619728926727644 },
    { "sae_group_gpt2_blocks.11.hook_mlp_out_24576:v2", 0.2851548652550073 },
    { "gemma_2b_blocks.12.hook_resid_post_16384", 0.21381938399317255 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L0R", 53.52995401997436 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L1R", 37.07457226753229 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L2R", 26.801271953747353 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L3R", 20.258785842428143 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L4R", 16.35620323956284 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L5R", 13.77273090622553 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L6R", 11.802642616140206 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L7R", 10.345622082873675 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L8R", 9.52711219837399 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L9R", 8.722802553532865 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L10R", 8.187374613072596 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L11R", 7.681409438301019 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L12R", 7.011470964851573 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L13R", 6.507851835301529 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L14R", 6.075830839342571 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L15R", 5.529329506982431 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L16R", 5.04125765694814 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L17R", 4.543060254752811 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L18R", 4.136073768441771 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L19R", 3.8186778444880143 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L20R", 3.4997662089479755 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L21R", 3.114875161525094 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L22R", 2.858677637086371 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L23R", 2.6143620233159384 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L24R", 2.406593266301888 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L25R", 2.2185540508553694 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L26R", 2.038628827422577 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L27R", 1.8664054897001374 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L28R", 1.6914743009513147 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L29R", 1.530389056066687 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L30R", 1.3378642198135962 },
    { "800M-Slimpajama-0-OpenR1-Math-220k/L31R", 1.0963025732622191 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L0R", 53.97673033497749 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L1R", 36.76995792628666 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L2R", 26.86329549484781 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L3R", 20.473522361966317 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L4R", 16.491433880849524 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L5R", 13.902529211394633 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L6R", 11.959185891949216 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L7R", 10.454685082137889 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L8R", 9.625849752730096 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L9R", 8.705443147441324 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L10R", 8.0884989084078 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L11R", 7.449578399564585 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L12R", 6.80144905444981 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L13R", 6.331711239265464 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L14R", 5.70284230018703 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L15R", 5.318041374444156 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L16R", 4.79639347416429 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L17R", 4.333554093692626 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L18R", 3.9386839067851334 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L19R", 3.584045063066589 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L20R", 3.4122850442674064 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L21R", 2.9930188471058385 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L22R", 2.7548717844301582 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L23R", 2.5281942698718076 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L24R", 2.326851186904894 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L25R", 2.101068654605767 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L26R", 1.9361189375890395 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L27R", 1.7784660082777055 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L28R", 1.6635049539624462 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L29R", 1.448853212514504 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L30R", 1.157008764313032 },
    { "400M-Slimpajama-400M-OpenR1-Math-220k/L31R", 1.041977999933546 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L0R", 54.308791085956486 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L1R", 36.49473030775242 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L2R", 26.96126387031055 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L3R", 20.52210199911164 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L4R", 16.67733543806145 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L5R", 14.067505043509176 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L6R", 12.034338704494331 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L7R", 10.495662821867164 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L8R", 9.683004157081735 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L9R", 8.679730500864236 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L10R", 7.988383971728427 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L11R", 7.237531143695951 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L12R", 6.69444885029299 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L13R", 6.0489858065009265 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L14R", 5.4935929917888595 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L15R", 4.970860531188141 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L16R", 4.541887865516153 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L17R", 4.111292885351861 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L18R", 3.7319009471881754 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L19R", 3.4464218438335172 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L20R", 3.1614163309538377 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L21R", 2.8600260547627334 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L22R", 2.636157171207381 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L23R", 2.4287397996449367 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L24R", 2.2405978768214556 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L25R", 2.034659098936678 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L26R", 1.8430054630341937 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L27R", 1.6554423260870552 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L28R", 1.477070442772071 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L29R", 1.3361543238773446 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L30R", 1.1387454210154435 },
    { "0-Slimpajama-800M-OpenR1-Math-220k/L31R", 0.926395749048437 },
};

bool qsae__sae_path_has(const char *path, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = path; (p = strstr(p, name)) != NULL; p++)
        if ((p == path || p[-1] == '/') && (!p[n] || p[n] == '/'))
            return true;
    return false;
}

void qsae__sae_release_of(const char *path, qsae__sae_release *out)
{
    *out = (qsae__sae_release){ .scale = 0 };
    for (size_t i = 0; i < sizeof releases / sizeof releases[0]; i++)
        if (strstr(path, releases[i].repository)) {
            out->center_input = releases[i].center_input;
            out->constant_norm = releases[i].constant_norm;
            break;
        }
    for (size_t i = 0; i < sizeof scales / sizeof scales[0]; i++)
        if (qsae__sae_path_has(path, scales[i].folder))
            out->scale = scales[i].scale;
}
