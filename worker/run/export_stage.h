#pragma once

#include "worker/model/model.h"
#include "worker/run/job_plan.h"
#include "worker/run/rank_session.h"
#include "worker/weights/export.h"

namespace emoe::worker {

// The last stage of the tasks that leave a model. JobErrors as export_error_code() says.

// What the export's dtype will do to the base is said before hours of training, not after. On rank 0.
void tell_of_rounding(const Model& model, const ExportPlan& wanted, RankSession& session);

// Rank 0 writes, checks and publishes export/, and reports it. Nothing where nothing is wanted. Every
// rank calls it: only all of them can make a pass where the weights are sharded. `checkpoint`: where the
// ranks share trained weights, the folder that has them (TrainResult::checkpoint).
void publish_export(Model& model, const ExportPlan& wanted, const Reordering& reordering,
                    RankSession& session, const std::filesystem::path& checkpoint = {});

}  // namespace emoe::worker
